"""The state of an Adam under the names that other optimizers give it, told in ours."""

from __future__ import annotations

import math
import re
from typing import Callable, Dict, NamedTuple, Optional

import numpy as np

from ms_adam.state import FLAT_LAYOUT, SHARD_LAYOUT, FlatLayout, ShardLayout

MOMENTS = ("moment1", "moment2", "vhat")
_TORCH = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
FORMS = (  # what stands for moment1, moment2 and vhat, and who writes it
    MOMENTS,                        # nn.Adam, nn.LazyAdam, nn.AdamOffload, ours
    ("adam_m", "adam_v", None),     # nn.AdamWeightDecay, MindCV, MindFormers AdamW
    _TORCH,                         # mindspore.mint, mindspore.experimental, MindFormers FusedAdamW
)


# A Cell that owns the optimizer puts its attribute's name before all: "optimizer.moment1.w".
_STATE = re.compile(r"((?:.*?\.)??)(?:flat_)?(" + "|".join(form[0] for form in FORMS) + r")\.")
_MOST_STEPS = 20_000_000  # that are multiplied up: 80 MB


class Steps(NamedTuple):
    """How many steps a checkpoint says were made.

    Attributes:
        possible: the counts that fit; one where it is clear; empty where nothing is said.
        why: what makes it unclear, for a message.
    """

    possible: tuple
    why: str = ""


class Content(NamedTuple):
    """What a checkpoint holds of an Adam.

    Attributes:
        entries: {"moment1.<parameter>" and so on: array}.
        spelled: from such a name to that in the checkpoint, for messages.
        steps: the count.
        share: of which rows, if it is the share of one rank; the entries have these alone.
    """

    entries: Dict[str, np.ndarray]
    spelled: Callable[[str], str]
    steps: Steps
    share: Optional[ShardLayout] = None


def named(checkpoint, formula):
    """Reads {name: Parameter, Tensor or array} of a MindSpore optimizer.

    Raises:
        ValueError: If it holds the state of two optimizers, or a damaged layout.
    """
    found = sorted({match.groups() for match in map(_STATE.match, checkpoint) if match})
    if len(found) > 1:
        raise ValueError("the checkpoint holds the state of more than one optimizer: "
                         + " and ".join(f"{owner}{prefix}.*" for owner, prefix in found)
                         + "; give the entries of one.")
    owner, first = found[0] if found else ("", MOMENTS[0])
    checkpoint = {name[len(owner):]: value for name, value in checkpoint.items()
                  if name.startswith(owner)}
    form = next(form for form in FORMS if form[0] == first)
    ours_of = {theirs: ours for ours, theirs in zip(MOMENTS, form) if theirs}
    theirs_of = {ours: theirs or ours for ours, theirs in zip(MOMENTS, form)}
    ours_of["master_weight"] = theirs_of["master_weight"] = "master_weight"

    entries = {}
    for name in checkpoint:
        prefix, dot, parameter = name.partition(".")
        if dot and prefix in ours_of:
            entries[f"{ours_of[prefix]}.{parameter}"] = array(checkpoint[name])
    entries.update(_from_flat(checkpoint))

    def spelled(name):
        prefix, _, parameter = name.partition(".")
        return f"{owner}{theirs_of[prefix]}.{parameter}"
    return Content(entries, spelled, _steps(checkpoint, form, formula), _share(checkpoint))


def joined(contents):
    """The shares of all ranks of one training as one content.

    Raises:
        ValueError: If there is none, one is no share, they do not count the same steps, or rows are
            missing or there twice.
    """
    if not contents:
        raise ValueError("the list of checkpoints is empty.")
    first = contents[0]
    entries, there = {}, {}
    for number, content in enumerate(contents):
        if content.share is None:
            raise ValueError(f"checkpoint {number} of the list is no share of an optimizer with "
                             "shard_state=True; a whole state is given by itself.")
        if content.steps != first.steps:
            raise ValueError(f"the checkpoints of the list do not count the same steps: number 0 "
                             f"{first.steps.possible}, number {number} {content.steps.possible}.")
        rows_of = {name: rest for name, *rest in zip(*content.share)}
        for name, value in content.entries.items():
            shape, begin, size = rows_of.get(name.partition(".")[2], ((), 0, None))
            whole = entries.setdefault(name, np.zeros(shape, value.dtype))
            if value.size != size or list(whole.shape) != shape or begin + size > whole.size:
                raise ValueError(f"checkpoint {number} of the list has {value.size} elements of "
                                 f"{content.spelled(name)}, which do not fit what its 'shard_layout' "
                                 "or that of another says.")
            whole.reshape(-1)[begin:begin + size] = value.reshape(-1)
            count = there.setdefault(name, np.zeros(whole.size, np.uint8))
            count[begin:begin + size] += 1
    for name, count in there.items():
        if np.any(count != 1):
            raise ValueError(f"the list of {len(contents)} checkpoints has {np.sum(count == 0)} of "
                             f"the {count.size} elements of {first.spelled(name)} not at all and "
                             f"{np.sum(count > 1)} more than once; give those of all ranks, once "
                             "each.")
    return Content(entries, first.spelled, first.steps)


def is_torch(checkpoint):
    """Whether a dict is the state_dict of an optimizer of PyTorch."""
    return set(checkpoint) == {"state", "param_groups"}


def torch(checkpoint, names):
    """Reads the state_dict of torch.optim.Adam or AdamW, its tensors as arrays.

    Args:
        checkpoint: {"state": {index: {"exp_avg", "exp_avg_sq", "step", ...}}, "param_groups"}.
        names: the parameters' names, a list in their order or a dict from the indices.

    Raises:
        TypeError: If `names` is not given, or neither list nor dict of names.
        ValueError: If `names` does not fit the parameters, or a parameter was not counted as
            often as another.
    """
    indices = [index for group in checkpoint["param_groups"] for index in group["params"]]
    name_of = _names_of(indices, names)
    entries, labels, counts = {}, {}, {}
    for index, name in name_of.items():
        for ours, theirs in zip(MOMENTS, _TORCH):
            labels[f"{ours}.{name}"] = f"{theirs} of {index} ({name})"
        for key, value in checkpoint["state"].get(index, {}).items():
            if key == "step":
                counts[name] = int(array(value).reshape(-1)[0])
            elif key in _TORCH:
                entries[f"{MOMENTS[_TORCH.index(key)]}.{name}"] = array(value)
            else:  # of another method: named as what it is, so that it is refused
                entries[f"{key} of {index} ({name})"] = array(value)
    different = sorted(set(counts.values()))
    if len(different) > 1:
        shown = ", ".join(f"{name}: {count}" for name, count in list(counts.items())[:8])
        raise ValueError("the parameters were not updated equally often, and this optimizer has "
                         f"one count for all ({shown}).")
    return Content(entries, lambda name: labels.get(name, name),
                   Steps(tuple(different), "" if different else "it holds no 'step'"))


def array(value):
    """A NumPy array of its own of a Parameter, Tensor or array."""
    return np.array(value.asnumpy() if hasattr(value, "asnumpy") else value)


def _names_of(indices, names):
    """{index of torch: name of ours}, checked."""
    if names is None:
        raise TypeError("a state_dict of torch numbers its parameters: 'names' must tell their "
                        f"names here, a list of {len(indices)} or a dict from the indices.")
    if not isinstance(names, (list, tuple, dict)):
        raise TypeError(f"'names' must be a list or a dict of parameter names, but got "
                        f"{type(names).__name__}.")
    if not isinstance(names, dict):
        if len(names) != len(indices):
            raise ValueError(f"'names' must name the {len(indices)} parameters of the state_dict, "
                             f"but has {len(names)} names.")
        names = dict(zip(indices, names))
    differing = sorted(set(indices) ^ set(names), key=str)
    if differing:
        raise ValueError("'names' must have the indices of the state_dict's parameters, but these "
                         f"are only in one of the two: {', '.join(map(str, differing))}.")
    wrong = [name for name in names.values() if not isinstance(name, str)]
    if wrong:
        raise TypeError(f"'names' must hold strings, but got {wrong[0]!r}.")
    twice = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
    if twice:
        raise ValueError(f"'names' gives a name to two parameters: {', '.join(twice)}.")
    return names


def _layout(checkpoint, name, form):
    """What an entry tells of how others are laid out; None if it is not there."""
    if name not in checkpoint:
        return None
    try:
        return form.from_bytes(array(checkpoint[name]))
    except (ValueError, TypeError) as error:  # no text, no JSON, or no layout
        raise ValueError(f"the entry '{name}' is damaged: {error}") from error


def _share(checkpoint):
    return _layout(checkpoint, SHARD_LAYOUT, ShardLayout)


def _from_flat(checkpoint):
    """Entries of the flat layout of ours, one for each parameter."""
    layout = _layout(checkpoint, FLAT_LAYOUT, FlatLayout)
    if layout is None:
        return {}
    sizes = layout.sizes()
    entries = {}
    for prefix in MOMENTS:
        buffers = {dtype: array(checkpoint[f"flat_{prefix}.{dtype}"]) for dtype in sizes
                   if f"flat_{prefix}.{dtype}" in checkpoint}
        if not buffers:
            continue
        for dtype, size in sizes.items():
            there = buffers[dtype].shape if dtype in buffers else "not there"
            if there != (size,):
                raise ValueError(f"the entry 'flat_{prefix}.{dtype}' is {there}, but "
                                 f"'{FLAT_LAYOUT}' describes ({size},)")
        entries.update(layout.split(prefix, buffers))
    return entries


def _steps(checkpoint, form, formula):
    """What the counters of a MindSpore optimizer say."""
    counters = {name: array(checkpoint[name]) for name in ("global_step", "state_step")
                if name in checkpoint}
    for name, counter in counters.items():
        if counter.size != 1 or float(counter.reshape(-1)[0]) % 1:  # NaN % 1 is NaN, which is true
            raise ValueError(f"the entry '{name}' must be one whole number, but is {counter}.")
    for name, counter in counters.items():
        count = int(counter.reshape(-1)[0])
        if count == -1:
            return Steps((0,))
        if count < -1:
            raise ValueError(f"the entry '{name}' must not be negative, but is {count}.")
        if form is _TORCH and not (name == "state_step" and counter.dtype.kind == "i"):
            # Same names, two conventions. The int state_step of mindspore.experimental is clear.
            return Steps((count, count + 1), f"its {name} is {count}: {count} steps of an "
                         f"optimizer that counts from 0 (mint.optim.Adam), {count + 1} of one that "
                         "counts from -1 (mint.optim.AdamW, MindFormers FusedAdamW)")
        if count > 0:
            return Steps((count,))
    return _from_powers(checkpoint, formula, counted=bool(counters))


def _from_powers(checkpoint, formula, counted):
    """The step count where it was not counted: MindSpore 2.0 with a fixed learning rate.

    Then beta2_power tells, or beta1_power where that has reached 0. Both are multiplied up step by
    step in float32; that is repeated here, since a logarithm misses by a step after some thousands.
    """
    for name, beta in (("beta2_power", formula.beta2), ("beta1_power", formula.beta1)):
        if name not in checkpoint or not 0.0 < beta < 1.0:
            continue
        power = np.float32(array(checkpoint[name]).reshape(-1)[0])
        if power == 1.0 and counted:
            return Steps((0,))
        if not 0.0 < power < 1.0:
            continue
        # The running product of t factors has an error of t roundings, t * 6e-8, which is 0.6% of
        # its logarithm for beta = 0.99999.
        most = math.ceil(1.01 * math.log(float(power)) / math.log(np.float32(beta))) + 4
        if most <= _MOST_STEPS:
            running = np.multiply.accumulate(np.full(most, beta, np.float32))
            rounded = np.float32(beta ** np.arange(1.0, most + 1))
            for powers in (running, rounded):  # nn.Adam's; whose powers are exact
                fitting = 1 + np.flatnonzero(powers == power)
                if len(fitting) == 1:
                    return Steps((int(fitting[0]),))
        return Steps((), f"its {name} = {power} is that of no number of steps, or of several, "
                     f"with {beta}")
    return Steps((0,)) if counted else Steps((), "it holds neither a step count nor beta powers")
