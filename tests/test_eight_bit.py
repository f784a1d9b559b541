"""The 8-bit state of bitsandbytes: read as the package reads it, written as it reads it."""

import functools

import bitsandbytes_file
import numpy as np
import pytest
from running import adam, unchanged

import ms_adam
from ms_adam import eight_bit, narrow

SHAPES, LEAST_SIZE = bitsandbytes_file.SHAPES, bitsandbytes_file.LEAST_SIZE
NAMES = [f"layer{i}.weight" for i in range(len(SHAPES))]
adamw = functools.partial(adam, SHAPES, optimizer=ms_adam.AdamW)


@pytest.fixture(scope="module")
def written():
    """What the package wrote and decoded: {"state1.0": array and so on}."""
    with np.load(bitsandbytes_file.FILE) as arrays:
        return dict(arrays.items())


def state_dict(written, nested):
    """The state_dict of the package, with arrays for tensors."""
    state = {}
    for i in range(len(SHAPES)):
        names = ("state1", "qmap1", "absmax1", "state2", "qmap2", "absmax2")
        inner = {name: written[f"{name}.{i}"] for name in names if f"{name}.{i}" in written}
        inner = {"__bnb_optimizer_quant_state__": inner} if nested else inner
        state[i] = {"step": int(written[f"step.{i}"]), **inner}
    return {"state": state, "param_groups": [{"params": [0, 1]}]}


def moments(optimizer):
    """{"moment1.<parameter>" and so on: float32 array}."""
    found = {k: v.asnumpy() for k, v in ms_adam.gather_state(optimizer).items()}
    return {name: found[name] for name in found if name.startswith("moment")}


def expected(written):
    found = {}
    for i, name in enumerate(NAMES):
        for k in "12":
            key = f"decoded{k}.{i}"
            found[f"moment{k}.{name}"] = written[key if key in written else f"state{k}.{i}"]
    return found


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16", "int8"])
def test_reads_what_the_package_decodes(written, nested, state_dtype):
    optimizer = adamw(state_dtype=state_dtype)
    ms_adam.load_state(optimizer, state_dict(written, nested), names=NAMES)
    assert int(optimizer.update_count.asnumpy()[0]) == bitsandbytes_file.STEPS
    wanted, found = expected(written), moments(optimizer)
    assert set(wanted) == set(found) and any(np.any(values) for values in wanted.values())
    for name, values in wanted.items():
        if state_dtype == "int8":  # what is nearest of all bytes; tests of `narrow` say how near
            signed = name.startswith("moment1")
            bytes_ = narrow.to_bytes(values, signed)
            values = narrow.from_bytes(bytes_, values.size, signed).reshape(values.shape)
        # A bfloat16 has 8 places: half of the last is 2^-8 of the number at most before it.
        limit = 2.0**-8 if state_dtype == "bfloat16" else 0.0
        np.testing.assert_allclose(found[name], values, rtol=limit, atol=0)


def test_the_table_is_that_of_the_package(written):
    """The package halves and multiplies in float32: four roundings, of numbers and of ends."""
    for k, is_signed in (("1", True), ("2", False)):
        ours, theirs = eight_bit.dynamic_map(is_signed), written[f"qmap{k}.0"]
        assert len(np.unique(ours)) == 256 and ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=4 * 2.0**-23, atol=0)


def trained():
    """An optimizer with moments of many sizes, a block of zeros among them."""
    optimizer, rng = adamw(), np.random.default_rng(0)
    values = {}
    for name, shape in zip(NAMES, SHAPES):
        first, second = (10.0 ** rng.uniform(-9, 0, shape) for _ in range(2))
        first.reshape(-1)[256:512] = second.reshape(-1)[256:512] = 0
        values[f"moment1.{name}"] = (first * rng.choice([-1, 1], shape)).astype(np.float32)
        values[f"moment2.{name}"] = second.astype(np.float32)
    ms_adam.load_state(optimizer, values, step=7)
    return optimizer, values


def test_what_is_written_is_the_nearest_and_comes_back():
    optimizer, values = trained()
    written = ms_adam.bitsandbytes_state(optimizer, min_8bit_size=LEAST_SIZE)
    again = adamw()
    ms_adam.load_state(again, written, names=NAMES)
    assert int(again.update_count.asnumpy()[0]) == 7
    for name, found in moments(again).items():
        value = values[name]
        if value.size < LEAST_SIZE:
            np.testing.assert_array_equal(found, value)
            continue
        numbers = eight_bit.dynamic_map(name.startswith("moment1"))
        for block in range(0, value.size, 256):
            part, near = (a.reshape(-1)[block : block + 256] for a in (value, found))
            largest = np.abs(part).max()
            if name.startswith("moment2"):
                assert np.all((near > 0) == (part > 0))
            best = np.abs(part[:, None] / (largest or 1) - numbers.astype(np.float64)).min(axis=1)
            if name.startswith("moment2"):  # below half of the least, 0 would be nearer
                best = np.maximum(best, np.where(part > 0, numbers[1] - part / (largest or 1), 0))
            # The quotient, the middle and the product are rounded, each relative to at most 1.
            assert np.all(np.abs(part - near) <= largest * (best + 4 * 2.0**-24))


@pytest.mark.parametrize(
    "options, error, says",
    [
        ({"use_amsgrad": True}, ValueError, "For 'AdamW', bitsandbytes has no maxima"),
        (None, TypeError, "'optimizer' must be an Adam, AdamW or AdaMax of ms_adam"),
    ],
)
def test_refuses_to_write_what_has_no_place_there(options, error, says):
    optimizer = adamw(**options) if options else object()
    with pytest.raises(error, match=says):
        ms_adam.bitsandbytes_state(optimizer)


@pytest.mark.parametrize(
    "name, change, says",
    [
        ("absmax1", lambda a: a[:-1], r"absmax1 must have shape \(3,\), but it is of shape \(2,\)"),
        ("absmax2", None, r"state2 of 0 has 600 bytes, for which absmax2 .* is missing"),
        ("qmap1", lambda a: a[:16], r"qmap1 must have shape \(256,\)"),
        ("state1", lambda a: a[:1], "exp_avg of 0 .* has shape|absmax1 must have shape"),
        ("state2", None, "missing: exp_avg_sq of 0"),
    ],
)
def test_refuses_state_that_does_not_fit(written, name, change, says):
    checkpoint, optimizer = state_dict(written, nested=False), adamw()
    state = checkpoint["state"][0]
    value = state.pop(name)
    if change:
        state[name] = change(value)
    elif name == "state2":
        del state["absmax2"], state["qmap2"]
    with unchanged(optimizer), pytest.raises(ValueError, match=says):
        ms_adam.load_state(optimizer, checkpoint, names=NAMES)


def test_the_package_goes_on_from_what_is_written():
    """It decodes the bytes to our numbers, and its next step is that of Algorithm 1 from them."""
    torch, bnb = pytest.importorskip("torch"), pytest.importorskip("bitsandbytes")
    for is_signed in (True, False):
        theirs = bnb.functional.create_dynamic_map(signed=is_signed).numpy()
        np.testing.assert_allclose(eight_bit.dynamic_map(is_signed), theirs, rtol=4 * 2.0**-23)
    optimizer, _ = trained()
    written = ms_adam.bitsandbytes_state(optimizer, min_8bit_size=LEAST_SIZE)
    again = adamw()
    ms_adam.load_state(again, written, names=NAMES)
    tensors = {
        i: {k: v if k == "step" else torch.as_tensor(np.array(v)) for k, v in one.items()}
        for i, one in written["state"].items()
    }
    theirs = bitsandbytes_file.optimizer(torch, bnb)
    theirs.load_state_dict({**theirs.state_dict(), "state": tensors})
    for name, parameter in zip(NAMES, theirs.param_groups[0]["params"]):
        state = theirs.state[parameter]
        assert state["step"] == 7
        if state["state1"].dtype == torch.uint8:
            for k in "12":
                decoded = bnb.functional.dequantize_blockwise(
                    state[f"state{k}"],
                    absmax=state[f"absmax{k}"],
                    code=state[f"qmap{k}"],
                    blocksize=256,
                )
                np.testing.assert_array_equal(decoded.numpy(), moments(again)[f"moment{k}.{name}"])
    theirs.step()
    for parameter in theirs.param_groups[0]["params"]:
        assert torch.isfinite(parameter).all() and theirs.state[parameter]["step"] == 8
