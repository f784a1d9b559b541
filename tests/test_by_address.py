"""The launch by address: right while MindSpore still computes, and for every kind of tensor."""

import threading

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer
from running import (
    ALL_BACKENDS,
    CompiledStep,
    make_parameters,
    snapshot,
    step_of,
    to_numpy,
    whole_state,
)

import ms_adam
from ms_adam.backends import launch

pytestmark = pytest.mark.skipif(
    not launch.AVAILABLE,
    reason="MindSpore 2.0.0 tells no addresses; test_optimizer and test_trainers run it compiled",
)

SHAPES = ((), (1,), (7,), (3, 5), (2, 3, 2, 2), (0, 4))


def random_tensors(seed, shapes=SHAPES, dtype="float32"):
    rng = np.random.default_rng(seed)
    return tuple(Tensor(rng.standard_normal(shape), getattr(ms, dtype)) for shape in shapes)


def assert_same(one, other):
    np.testing.assert_equal(whole_state(one), whole_state(other))


def pair(shapes=SHAPES, launch="by address", **options):
    """An optimizer that Python calls, and the same as part of a graph."""
    called = ms_adam.Adam(make_parameters(shapes, "float32"), **options)
    compiled = ms_adam.Adam(make_parameters(shapes, "float32"), **options)
    assert called.launch == launch
    return called, compiled, CompiledStep(compiled)


# --- which way runs ------------------------------------------------------------------------------


def test_a_subclass_with_its_own_construct_is_compiled(mode):
    class Halved(ms_adam.Adam):
        @ms.jit
        def construct(self, gradients):
            return super().construct(gradients[:1] + (gradients[1] * 0.0,))

    optimizer = Halved(make_parameters([(3,), (3,)], "float32"))
    assert optimizer.launch == "compiled"
    before = snapshot(optimizer).weights
    optimizer(random_tensors(0, [(3,), (3,)]))
    after = snapshot(optimizer).weights
    assert not np.array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])


def test_a_hook_is_called():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    optimizer = ms_adam.Adam(make_parameters([(3,)], "float32"))
    called = []
    handle = optimizer.register_forward_pre_hook(lambda cell, inputs: called.append(len(inputs)))
    assert optimizer.launch == "compiled"
    optimizer(random_tensors(0, [(3,)]))
    assert called
    handle.remove()
    assert optimizer.launch == "by address"


# --- order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [True, False])
def test_no_gradient_is_read_early_and_no_weight_late(asynchronous):
    """Chains before and after each of 200 calls; every value is a small whole number.

    With beta1 = beta2 = 0, eps = 1 and no bias correction, the step of a gradient g >= 0 is
    g / (g + 1): with g = 1 exactly 0.5. A gradient that is read before its chain is done is not 1,
    and the weight that is read after step t is -t / 2 exactly. (A launch at once, at addresses that
    were known before, fails in 198 of 200 steps.)
    """
    ms.set_context(mode=ms.PYNATIVE_MODE, pynative_synchronize=not asynchronous)
    size = 64
    weight = Parameter(Tensor(np.zeros((size, size)), ms.float32), name="w")
    optimizer = ms_adam.Adam([weight], 1.0, beta1=0.0, beta2=0.0, eps=1.0, bias_correction=False)
    assert optimizer.launch == "by address"
    identity, ones = Tensor(np.eye(size), ms.float32), Tensor(np.ones((size, size)), ms.float32)
    reads = []
    try:
        for step in range(200):
            gradient = ones * 3.0
            for _ in range(step % 7):
                gradient = ops.matmul(gradient, identity)
            gradient = gradient - 2.0
            queued = ops.matmul(weight, identity)  # reads the weight before the step
            done = optimizer((gradient,))
            later = ops.matmul(weight, identity)  # and after it
            reads.append((queued, later))
            del gradient  # its memory is free for the next one
            assert done
        for step, (queued, later) in enumerate(reads):
            np.testing.assert_array_equal(queued.asnumpy(), -step / 2)
            np.testing.assert_array_equal(later.asnumpy(), -(step + 1) / 2)
        np.testing.assert_array_equal(to_numpy(weight), -100.0)
    finally:
        ms.set_context(pynative_synchronize=False)


class Line(nn.Cell):
    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor(np.zeros(1000), ms.float32), name="weight")

    def construct(self, x):
        return ops.reduce_sum(self.weight * x)


def test_graphs_before_and_after_see_the_weight(mode):
    """value_and_grad of a network, compiled in graph mode: the loss of step t is -t / 2 * 1000."""
    network = Line()
    optimizer = ms_adam.Adam(
        network.trainable_params(), 1.0, beta1=0.0, beta2=0.0, eps=1.0, bias_correction=False
    )
    gradient = ms.value_and_grad(network, None, network.trainable_params())
    x = Tensor(np.ones(1000), ms.float32)
    for step in range(200):
        loss, gradients = gradient(x)
        optimizer(gradients)
        assert float(loss) == -500.0 * step


def test_an_error_under_way_is_raised_before_anything_changes():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    optimizer = ms_adam.Adam(make_parameters([(3,)], "float32"))
    before = whole_state(optimizer)
    table = Tensor(np.ones((2, 3)), ms.float32)
    with pytest.raises(RuntimeError):
        optimizer((ops.Gather()(table, Tensor(5, ms.int32), 0) * 1.0,))
    np.testing.assert_equal(whole_state(optimizer), before)
    optimizer(random_tensors(0, [(3,)]))
    assert optimizer.global_step.asnumpy() == 1


# --- kinds of tensors ----------------------------------------------------------------------------


def test_views_are_read_as_what_they_show(mode):
    shapes = [(4, 3), (2, 3), (3, 2), (3, 4), (5,)]
    x = Tensor(np.arange(12.0).reshape(3, 4) - 5, ms.float32)
    views = (
        x.transpose(1, 0),
        x[1:, :3],
        x[:, 1:3],
        ops.broadcast_to(x[1:2], (3, 4)),
        Tensor(np.arange(10.0), ms.float32)[::2],
    )
    called, compiled, step = pair(shapes)
    for _ in range(2):
        called(views)
        step(tuple(Tensor(np.array(view.asnumpy())) for view in views))
    assert_same(called, compiled)


def test_memory_shared_with_numpy(mode):
    array = np.ones(5, np.float32)
    called, compiled, step = pair([(5,)])
    shared = Tensor.from_numpy(array)
    for factor in (1.0, -3.0):
        array[:] = factor
        called((shared,))
        step((Tensor(np.full(5, factor), ms.float32),))
    assert_same(called, compiled)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_gradients_of_another_dtype_from_one_call_to_the_next(dtype, mode):
    called, compiled, step = pair()
    for name in ("float32", dtype, "float32"):
        gradients = random_tensors(1, dtype=name)
        called(gradients)
        step(gradients)
    assert_same(called, compiled)


def test_memory_that_moves_within_a_tensor(mode):
    """A tensor's storage (`untyped_storage`) goes on telling the address from before."""
    moved, same = (ms_adam.Adam(make_parameters([(4, 3)], "float32")) for _ in range(2))
    weight, new = moved.parameters[0], same.parameters[0]
    for i in range(3):
        for optimizer in (moved, same):
            optimizer(random_tensors(i, [(4, 3)]))
        assert_same(moved, same)
        if i == 0:
            weight.set_dtype(ms.float16)
            weight.set_dtype(ms.float32)
            new.set_data(Tensor(to_numpy(new).astype(np.float16), ms.float32))
        elif hasattr(weight, "set_"):
            weight.set_(Tensor(np.full((4, 3), 0.25), ms.float32))
            new.set_data(Tensor(np.full((4, 3), 0.25), ms.float32))


@pytest.mark.parametrize("replace", ["set_data", "load_param_into_net", "assign", "copy_"])
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_replaced_data_is_what_goes_on(replace, backend, mode):
    """Weights, moments and a fixed learning rate; the same with all of them in one graph.

    nn.Adam loses its steps at a `set_data` between them.
    """
    way = "by address" if backend == "fused" else "compiled"
    called, compiled, step = pair([(4, 3), (5,)], way, backend=backend)
    new = {
        parameter.name: Parameter(Tensor(np.full(parameter.shape, 0.25), ms.float32))
        for parameter in (*called.parameters, *called.moment1)
    }
    new["learning_rate"] = Parameter(Tensor(0.5, ms.float32))
    for i in range(4):
        gradients = random_tensors(i, [(4, 3), (5,)])
        called(gradients)
        step(gradients)
        if i != 1:
            continue
        for parameter in called.get_parameters():
            if parameter.name not in new:
                continue
            if replace == "set_data":
                parameter.set_data(new[parameter.name])
            elif replace == "assign":
                ops.assign(parameter, new[parameter.name])
            elif replace == "copy_":
                parameter.copy_(new[parameter.name])
        if replace == "load_param_into_net":
            ms.load_param_into_net(called, new)
        for parameter in compiled.get_parameters():
            if parameter.name in new:
                ops.assign(parameter, new[parameter.name])
    assert_same(called, compiled)


def test_data_of_another_shape_are_refused(mode):
    """`set_data` takes them. The kernel would write the moments of 10,000 elements into 10."""
    optimizer = ms_adam.Adam(make_parameters([(100, 100)], "float32"))
    gradients = random_tensors(0, [(100, 100)])
    optimizer(gradients)
    for parameter in (optimizer.moment2[0], optimizer.parameters[0]):
        before = to_numpy(parameter).copy()
        parameter.set_data(Tensor(np.zeros(10), ms.float32))
        with pytest.raises(RuntimeError, match="the kernel refuses the tensors of the step"):
            optimizer(gradients)
        parameter.set_data(Tensor(before, ms.float32))
        optimizer(gradients)
    assert optimizer.global_step.asnumpy() == 3


def test_parameters_that_are_loaded_after_the_optimizer_was_made(mode):
    """`no_init_parameters` leaves them without data until then, and what is cloned from them."""
    from mindspore.nn.utils import no_init_parameters  # not in 2.0.0

    called, compiled, step = pair([(4, 3)])
    with no_init_parameters():
        late = Parameter(initializer("zeros", (4, 3), ms.float32), name="layer0.weight")
    optimizer = ms_adam.Adam([late])
    late.set_data(Tensor(to_numpy(called.parameters[0]), ms.float32))
    for i in range(3):
        gradients = random_tensors(i, [(4, 3)])
        optimizer(gradients)
        step(gradients)
    assert_same(optimizer, compiled)


def test_a_parameter_that_is_a_view(mode):
    parameter = Parameter(Tensor(np.zeros((4, 3)), ms.float32), name="w")
    optimizer = ms_adam.Adam([parameter], 0.1)
    x = Tensor(np.arange(12.0).reshape(3, 4), ms.float32)
    parameter.set_data(x.transpose(1, 0))
    signs = np.where(np.arange(12).reshape(4, 3) % 5 < 2, 1.0, -1.0)
    optimizer((Tensor(signs, ms.float32),))
    # Steps of the learning rate, to two roundings of weights up to 11.
    np.testing.assert_allclose(
        parameter.asnumpy(), np.arange(12.0).reshape(3, 4).T - 0.1 * signs, atol=2 * 2.0**-20
    )
    np.testing.assert_array_equal(x.asnumpy(), np.arange(12.0).reshape(3, 4))


@pytest.mark.parametrize(
    "dtype, shape",
    [("int32", (1,)), ("int64", (1,)), ("float32", (1,)), ("float64", ()), ("int32", ())],
)
@pytest.mark.parametrize("backend", ["fused", "primitive", "composite"])
@pytest.mark.parametrize("compiled", [False, True])
def test_global_step_of_another_dtype(backend, dtype, shape, compiled, mode):
    """tinyms puts a float counter there: its bits are not to be read as an integer."""
    rates = [1e-3, 3e-3]
    optimizer = ms_adam.Adam(make_parameters([(3,)], "float32"), rates, backend=backend)
    optimizer.global_step = Parameter(
        Tensor(np.zeros(shape), getattr(ms, dtype)), name="global_step", requires_grad=False
    )
    before = to_numpy(optimizer.parameters[0])
    step = step_of(optimizer, compiled)
    for _ in range(2):
        step((Tensor(np.ones(3), ms.float32),))
    # Equal gradients make steps of the learning rates, to a few roundings of weights up to 1.
    np.testing.assert_allclose(before - to_numpy(optimizer.parameters[0]), 4e-3, atol=3e-7)
    assert optimizer.global_step.asnumpy() == 2
    again = ms_adam.Adam(make_parameters([(3,)], "float32"), rates, backend=backend)
    again.global_step = optimizer.global_step.clone(init="zeros")
    ms_adam.load_state(again, ms_adam.gather_state(optimizer))
    assert again.global_step.asnumpy() == 2 and again.global_step.shape == shape


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_a_global_step_that_takes_the_place_of_another_is_counted(backend, mode):
    optimizer = ms_adam.Adam(make_parameters([(3,)], "float32"), [1.0, 1.0, 0.5], backend=backend)
    optimizer(random_tensors(0, [(3,)]))
    optimizer.global_step = Parameter(Tensor([2], ms.int32), "global_step", requires_grad=False)
    before = to_numpy(optimizer.parameters[0])
    optimizer(random_tensors(0, [(3,)]))
    # Equal gradients make steps of the learning rate.
    apart = np.abs(to_numpy(optimizer.parameters[0]) - before)
    np.testing.assert_allclose(apart, 0.5, rtol=1e-5)
    assert optimizer.global_step.asnumpy() == 3


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_a_global_step_that_cannot_count_is_refused(backend, mode):
    """In float16, 2,048 is followed by itself."""
    optimizer = ms_adam.Adam(make_parameters([(3,)], "float32"), backend=backend)
    optimizer.global_step = Parameter(Tensor([0], ms.float16), "global_step", requires_grad=False)
    with pytest.raises(TypeError, match="'global_step' must be one number.*Float16"):
        optimizer(random_tensors(0, [(3,)]))


def test_ctrl_c_leaves_the_counts_of_a_step_together(monkeypatch):
    """Python raises a KeyboardInterrupt as soon as the kernel has returned."""
    optimizer = ms_adam.Adam(make_parameters([(3,)], "float32"))
    launcher = type(optimizer.update.launcher)
    launched = launcher.__call__

    def interrupted(self, *arguments):
        launched(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(launcher, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimizer(random_tensors(0, [(3,)]))
    assert int(optimizer.update_count) == int(optimizer.global_step) == 1


@pytest.mark.parametrize("options", [{}, {"master_weights": True, "ema_decay": 0.9}])
def test_a_call_that_accumulates_takes_gradients_and_sums_only(options, monkeypatch):
    parameters = make_parameters([(3,), (4, 3)], "float16")
    optimizer = ms_adam.Adam(parameters, accumulate_steps=3, **options)
    given, launched = [], launch.Launcher.__call__

    def noted(self, tensors):
        given.append({id(tensor) for tensor in tensors})
        return launched(self, tensors)

    monkeypatch.setattr(launch.Launcher, "__call__", noted)
    for _ in range(3):
        optimizer(random_tensors(0, [(3,), (4, 3)], "float16"))
    of_steps = {id(tensor) for tensor in (*optimizer.parameters, *optimizer.moment1)}
    sums = {id(tensor) for tensor in optimizer.accumulators}
    for tensors, updates in zip(given, (False, False, True)):
        assert sums <= tensors and (of_steps <= tensors) == updates
        assert updates or not of_steps & tensors


# --- rates and rows ------------------------------------------------------------------------------


def test_a_list_of_rates_that_has_ended_is_an_error(mode):
    optimizer = ms_adam.Adam(make_parameters([(3,)], "float32"), [0.1, 0.2])
    for _ in range(2):
        optimizer(random_tensors(0, [(3,)]))
    before = whole_state(optimizer)
    with pytest.raises(RuntimeError, match="has 2 values, and none for step 2"):
        optimizer(random_tensors(0, [(3,)]))
    np.testing.assert_equal(whole_state(optimizer), before)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_lazy": True},
        {"max_grad_norm": 0.5},
        {"flat_state": True},
        {"use_amsgrad": True},
        {"master_weights": True},
        {"use_offload": True},
    ],
    ids=str,
)
def test_rows_have_the_bits_of_the_compiled_step(options, mode):
    shapes = [(3,), (9, 4), (6, 2)]
    called, compiled, step = pair(shapes, **options)
    rng = np.random.default_rng(0)
    for count in (5, 2, 5):
        gradients = (
            *random_tensors(count, shapes[:1]),
            (
                Tensor(rng.integers(0, 9, count), ms.int32),
                Tensor(rng.standard_normal((count, 4)), ms.float32),
            ),
            Tensor(rng.standard_normal((6, 2)), ms.float32),
        )
        called(gradients)
        step(gradients)
    assert_same(called, compiled)


# --- errors: those of the compiled step, before anything changes ---------------------------------


@pytest.mark.parametrize(
    "name, says",
    [
        ("bare tensor", "gradients must be a tuple or list"),
        ("none", "'layer1.weight'.*None"),
        ("shape", "'layer1.weight' must have"),
    ],
)
def test_gradients_that_do_not_fit_a_graph(name, says):
    """Inside of a compiled step the words of test_optimizer's BAD_GRADIENTS."""
    ms.set_context(mode=ms.GRAPH_MODE)

    class Step(nn.Cell):
        def __init__(self, optimizer):
            super().__init__(auto_prefix=False)
            self.optimizer = optimizer

        def construct(self, one, two):
            return self.optimizer(self.choose(one, two))

        def choose(self, one, two):
            if name == "bare tensor":
                return one
            if name == "none":
                return one, None
            return one, one

    optimizer = ms_adam.Adam(make_parameters([(3,), (5, 2)], "float32"))
    with pytest.raises((TypeError, ValueError), match=f"For 'Adam', .*{says}"):
        Step(optimizer)(*random_tensors(0, [(3,), (5, 2)]))
    assert optimizer.global_step.asnumpy() == 0


# --- objects -------------------------------------------------------------------------------------


def test_an_optimizer_for_each_thread():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    shapes = [(300, 200), (1000,)]
    optimizers = [ms_adam.Adam(make_parameters(shapes, "float32")) for _ in range(4)]
    expected = ms_adam.Adam(make_parameters(shapes, "float32"))
    gradients = [random_tensors(i, shapes) for i in range(20)]
    failures = []

    def train(optimizer):
        try:
            for gradient in gradients:
                optimizer(gradient)
        except Exception as error:  # a thread's error ends the test below
            failures.append(error)

    threads = [threading.Thread(target=train, args=(optimizer,)) for optimizer in optimizers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    train(expected)
    assert failures == []
    for optimizer in optimizers:
        assert_same(optimizer, expected)
