"""Translates the state of other optimizers into the names of ms_adam."""

from __future__ import annotations

import math
import re
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from ms_adam.counts import exact_count, power_range, updates_made
from ms_adam.options import Formula
from ms_adam.state import (
    FLAT_LAYOUT,
    MOMENTS,
    SHARD_LAYOUT,
    SUMS,
    FlatLayout,
    ShardLayout,
    read_layout,
)

_TORCH = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
FORMS = (  # the names of moment1, moment2 and vhat, and the optimizers that write them
    ("moment1", "moment2", "vhat"),  # nn.Adam, nn.LazyAdam, nn.AdamOffload, ms_adam
    ("adam_m", "adam_v", None),  # nn.AdamWeightDecay, MindCV, MindFormers AdamW
    _TORCH,  # mindspore.mint, mindspore.experimental, MindFormers FusedAdamW
)


# Anything may precede a name: a Cell that owns the optimizer makes it "optimizer.moment1.w",
# update_parameters_name("optim_g") makes it "optim_gmoment1.w".
_STATE = re.compile(r"(.*?)(?:flat_)?(" + "|".join(form[0] for form in FORMS) + r")\.", re.DOTALL)
_COUNTERS = ("global_step", "state_step")
_POWERS = ("beta1_power", "beta2_power")
_SINGLE = (*_COUNTERS, *_POWERS, "counted_power", "update_count", FLAT_LAYOUT, SHARD_LAYOUT)


class Steps(NamedTuple):
    """The counts that a checkpoint holds.

    Attributes:
        updates: the possible numbers of updates, the likeliest first; empty if the checkpoint holds
            none.
        why: why there is not exactly one, for an error message.
        global_step: the counter of the schedules; None where it is the number of updates.
        doubt: the contradiction to the first of `updates`, for a warning; "" if there is none.
    """

    updates: tuple
    why: str = ""
    global_step: Optional[int] = None
    doubt: str = ""


class Content(NamedTuple):
    """The state of an optimizer in a checkpoint.

    Attributes:
        entries: {"moment1.<parameter>" and so on: array}.
        spelled: maps such a name to its name in the checkpoint, for messages.
        steps: the counts.
        share: which rows the entries hold, if the checkpoint is the share of one rank.
        others: the entries that are not the state of this optimizer, unchanged.
        prefix: stands before the names of the optimizer's entries there.
    """

    entries: Dict[str, np.ndarray]
    spelled: Callable[[str], str]
    steps: Steps
    share: Optional[ShardLayout] = None
    others: Dict[str, Any] = {}
    prefix: str = ""


def named(
    checkpoint: Dict[str, Any],
    formula: Formula,
    names: Sequence[str],
    prefix: str = "",
    state_step_before: Optional[int] = None,
) -> Content:
    """Reads {name: Parameter, Tensor or array} of a MindSpore optimizer.

    Args:
        checkpoint: the entries.
        formula: the `Formula` whose decay rates the beta powers are of.
        names: the names of the parameters; of no others are averages part of the state.
        prefix: stands before the names of the optimizer that is loaded; chooses among the states of
            several optimizers.
        state_step_before: the float `state_step` before the first step, 0 or -1; None: not known.

    Raises:
        ValueError: If it holds the state of several optimizers and none is that of `prefix`, if an
            entry is a dict, if a layout or a count is damaged, or if its method is another one.
    """
    _refuse_nested(checkpoint)
    found: List[Any] = sorted({match.groups() for match in map(_STATE.match, checkpoint) if match})
    if len(found) > 1:
        same = [(there, moment) for there, moment in found if there == prefix]
        if len(same) != 1:
            raise ValueError(
                "the checkpoint holds the state of more than one optimizer: "
                + " and ".join(f"{there}{moment}.*" for there, moment in found)
                + "; give the entries of one."
            )
        found = same
    prefix, first = found[0] if found else ("", MOMENTS[0])
    whole, checkpoint = (
        checkpoint,
        {name[len(prefix) :]: v for name, v in checkpoint.items() if name.startswith(prefix)},
    )
    form = next(form for form in FORMS if form[0] == first)
    ours_of = {theirs: ours for ours, theirs in zip(MOMENTS, form) if theirs}
    theirs_of = {ours: theirs or ours for ours, theirs in zip(MOMENTS, form)}
    # Without their count, sums of gradients are another model's weights to it.
    for entry in ("master_weight", *(SUMS if "accumulated" in checkpoint else ())):
        ours_of[entry] = theirs_of[entry] = entry
    # So are averages, if it keeps none or has no such parameter. MindCV keeps them beside the
    # optimizer: its prefix does not precede their names.
    averages = {f"ema.{name}" for name in names if formula.ema_decay is not None}
    beside = set() if averages & checkpoint.keys() else averages & whole.keys()
    checkpoint.update((name, whole[name]) for name in beside)
    flat = tuple(f"flat_{moment}" for moment in MOMENTS)

    entries, used = {}, {name for name in checkpoint if name in _SINGLE}
    for name in checkpoint:
        entry, dot, parameter = name.partition(".")
        if name in averages or (dot and entry in ours_of):
            entries[f"{ours_of.get(entry, entry)}.{parameter}"] = array(
                checkpoint[name], prefix + name
            )
            used.add(name)
        elif dot and entry in flat:
            used.add(name)
    entries.update(_from_flat(checkpoint))

    def spelled(name):
        entry, _, parameter = name.partition(".")
        before = "" if entry == "ema" and beside else prefix
        return f"{before}{theirs_of.get(entry, entry)}.{parameter}"

    others = {
        name: value
        for name, value in whole.items()
        if name not in beside and not (name.startswith(prefix) and name[len(prefix) :] in used)
    }
    steps = _steps(checkpoint, form, formula, state_step_before)
    if form is not FORMS[0] or "beta1_power" in checkpoint:
        _check_method(formula, form is FORMS[0] and "beta2_power" not in checkpoint)
    return Content(entries, spelled, steps, share_of(checkpoint), others, prefix)


def _refuse_nested(checkpoint):
    """Refuses a dict of dicts, as PyTorch users save a training; names the state in it."""
    wrong = [name for name in checkpoint if not isinstance(name, str)]
    if wrong:
        raise ValueError(
            "the checkpoint's keys must be names of entries, but one is "
            f"{wrong[0]!r} ({type(wrong[0]).__name__})."
        )
    nested = [name for name, value in checkpoint.items() if isinstance(value, dict)]
    states = [f"checkpoint[{name!r}]" for name in nested if _is_state(checkpoint[name])]
    states += [
        f"checkpoint[{name!r}][{i}]"
        for name, value in checkpoint.items()
        if isinstance(value, (list, tuple))
        for i, item in enumerate(value)
        if _is_state(item)
    ]
    if states:
        raise ValueError(
            "the checkpoint holds a whole training, with the entries "
            f"{', '.join(map(repr, checkpoint))}, not the state of an optimizer "
            f"itself. Give that: {' or '.join(states)}."
        )
    if nested:
        raise ValueError(
            f"the checkpoint's entry {nested[0]!r} must be a Parameter, Tensor or "
            f"array, but is a dict with {len(checkpoint[nested[0]])} entries."
        )


def _is_state(value):
    return isinstance(value, dict) and (
        is_torch(value) or any(_STATE.match(name) for name in value if isinstance(name, str))
    )


def _check_method(formula, is_adamax):
    """Refuses second moments of Adam for AdaMax, and of AdaMax for Adam."""
    if is_adamax != formula.infinity_norm:
        kinds = "means of squares, as those of Adam", "maxima of magnitudes, as those of AdaMax"
        raise ValueError(
            f"the checkpoint's second moments are {kinds[is_adamax]}; this optimizer keeps "
            f"{kinds[not is_adamax]}."
        )


def joined(contents: List[Content]) -> Content:
    """Joins the shares of all ranks of one training into one content.

    Raises:
        ValueError: If there are none, if one is not a share, if they do not count the same steps,
            or if rows are missing or duplicated.
    """
    if not contents:
        raise ValueError("the list of checkpoints is empty.")
    first = contents[0]
    entries: Dict[str, np.ndarray] = {}
    there: Dict[str, np.ndarray] = {}
    for number, content in enumerate(contents):
        if content.share is None:
            raise ValueError(
                f"checkpoint {number} of the list is not a share of an optimizer with "
                "shard_state=True; pass a whole state by itself."
            )
        if content.steps != first.steps:
            raise ValueError(
                f"the checkpoints of the list do not count the same steps: number 0 "
                f"{_shown(first.steps)}, number {number} {_shown(content.steps)}."
            )
        rows_of: Dict[str, Any] = {name: rest for name, *rest in zip(*content.share)}
        for name, value in content.entries.items():
            if name.partition(".")[0] in SUMS:  # whole, and the same on each rank
                entries[name] = value
                continue
            shape, begin, size = rows_of.get(name.partition(".")[2], ((), 0, None))
            whole = entries.setdefault(name, np.zeros(shape, value.dtype))
            if value.size != size or list(whole.shape) != shape or begin + size > whole.size:
                raise ValueError(
                    f"checkpoint {number} of the list has {value.size} elements of "
                    f"{content.spelled(name)}, which do not fit what its "
                    "'shard_layout' or that of another says."
                )
            whole.reshape(-1)[begin : begin + size] = value.reshape(-1)
            count = there.setdefault(name, np.zeros(whole.size, np.uint8))
            count[begin : begin + size] += 1
    for name, count in there.items():
        if np.any(count != 1):
            raise ValueError(
                f"the list of {len(contents)} checkpoints has {np.sum(count == 0)} of "
                f"the {count.size} elements of {first.spelled(name)} not at all and "
                f"{np.sum(count > 1)} more than once; give those of all ranks, once "
                "each."
            )
    others = {
        name: value for content in reversed(contents) for name, value in content.others.items()
    }
    return Content(entries, first.spelled, first.steps, others=others, prefix=first.prefix)


def _shown(steps):
    """Counts for a message: "counts 7", "counts 6 or 12 (global_step 12)", "counts none"."""
    shown = f"counts {' or '.join(map(str, steps.updates)) or 'none'}"
    if steps.global_step is None or steps.updates == (steps.global_step,):
        return shown
    return f"{shown} (global_step {steps.global_step})"


def is_torch(checkpoint: Dict[str, Any]) -> bool:
    """Returns whether a dict is the state_dict of an optimizer of PyTorch."""
    return set(checkpoint) == {"state", "param_groups"}


def torch(checkpoint: Dict[str, Any], names: Any, formula: Formula) -> Content:
    """Reads the state_dict of torch.optim.Adam or AdamW, its tensors as arrays.

    Args:
        checkpoint: {"state": {index: {"exp_avg", "exp_avg_sq", "step", ...}}, "param_groups"}.
        names: the parameters' names, a list in their order or a dict from the indices.
        formula: that of the optimizer that is loaded.

    Raises:
        TypeError: If `names` is missing, or neither a list nor a dict of names.
        ValueError: If `names` does not fit the parameters, if the parameters' step counts differ,
            if the dict is not laid out so, or if `formula` is that of AdaMax.
    """
    _check_method(formula, is_adamax=False)
    try:
        indices = [index for group in checkpoint["param_groups"] for index in group["params"]]
        state = {index: dict(checkpoint["state"].get(index, {})) for index in indices}
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(
            "the state_dict of torch must hold 'param_groups', a list of dicts with "
            "the key 'params', and 'state', a dict of dicts; reading it ended with "
            f"{type(error).__name__}: {error}."
        ) from error
    name_of = _names_of(indices, names)
    entries, labels, counts = {}, {}, {}
    for index, name in name_of.items():
        for ours, theirs in zip(MOMENTS, _TORCH):
            labels[f"{ours}.{name}"] = f"{theirs} of {index} ({name})"
        for key, value in state[index].items():
            label = f"{key} of {index} ({name})"
            if key == "step":
                counts[name] = _whole_number(label, value, 0)
            elif key in _TORCH:
                entries[f"{MOMENTS[_TORCH.index(key)]}.{name}"] = array(value, label)
            else:  # of another method: keeps its name, so that it is refused
                entries[label] = array(value, label)
    different = sorted(set(counts.values()))
    if len(different) > 1:
        shown = ", ".join(f"{name}: {count}" for name, count in list(counts.items())[:8])
        raise ValueError(
            "the parameters were not updated equally often, and this optimizer has "
            f"one count for all ({shown})."
        )
    return Content(
        entries,
        lambda name: labels.get(name, name),
        Steps(tuple(different), "" if different else "it holds no 'step'"),
    )


def array(value: Any, name: str) -> np.ndarray:
    """Copies a Parameter, Tensor or array into a NumPy array.

    Raises:
        ValueError: If NumPy cannot read it, such as a tensor of torch on a GPU; the message has
            `name`.
    """
    try:
        return np.array(value.asnumpy() if hasattr(value, "asnumpy") else value)
    except Exception as error:  # each framework raises its own
        raise ValueError(
            f"the entry '{name}' must be a Parameter, Tensor or array, but is a "
            f"{type(value).__name__} that NumPy cannot read: {error}"
        ) from error


def _names_of(indices, names):
    """Returns {index of torch: name of the parameter}, checked."""
    if names is None:
        raise TypeError(
            "a state_dict of torch numbers its parameters: 'names' must give their "
            f"names here, a list of {len(indices)} or a dict from the indices."
        )
    if not isinstance(names, (list, tuple, dict)):
        raise TypeError(
            f"'names' must be a list or a dict of parameter names, but got {names!r} "
            f"({type(names).__name__})."
        )
    if not isinstance(names, dict):
        if len(names) != len(indices):
            raise ValueError(
                f"'names' must name the {len(indices)} parameters of the state_dict, "
                f"but has {len(names)} names."
            )
        names = dict(zip(indices, names))
    differing = sorted(set(indices) ^ set(names), key=str)
    if differing:
        raise ValueError(
            "'names' must have the indices of the state_dict's parameters, but these "
            f"are only in one of the two: {', '.join(map(str, differing))}."
        )
    wrong = [name for name in names.values() if not isinstance(name, str)]
    if wrong:
        raise TypeError(f"'names' must hold strings, but got {wrong[0]!r}.")
    twice = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
    if twice:
        raise ValueError(f"'names' gives a name to two parameters: {', '.join(twice)}.")
    return names


def _layout(checkpoint, name, form):
    """Reads the layout that an entry holds; None if there is no such entry."""
    if name not in checkpoint:
        return None
    try:
        return read_layout(form, array(checkpoint[name], name))
    except (ValueError, TypeError) as error:  # no text, no JSON, or no layout
        raise ValueError(f"the entry '{name}' is damaged: {error}") from error


def share_of(checkpoint: Dict[str, Any], prefix: str = "") -> Optional[ShardLayout]:
    """Returns the rows that a checkpoint holds, if it is the share of one rank."""
    return _layout(checkpoint, prefix + SHARD_LAYOUT, ShardLayout)


def _from_flat(checkpoint):
    """Splits our flat layout into one entry per parameter."""
    layout = _layout(checkpoint, FLAT_LAYOUT, FlatLayout)
    if layout is None:
        return {}
    sizes = layout.sizes()
    entries = {}
    for prefix in MOMENTS:
        names = {dtype: f"flat_{prefix}.{dtype}" for dtype in sizes}
        buffers = {
            dtype: array(checkpoint[name], name)
            for dtype, name in names.items()
            if name in checkpoint
        }
        if not buffers:
            continue
        for dtype, size in sizes.items():
            there = buffers[dtype].shape if dtype in buffers else "not there"
            if there != (size,):
                raise ValueError(
                    f"the entry 'flat_{prefix}.{dtype}' is {there}, but "
                    f"'{FLAT_LAYOUT}' describes ({size},)"
                )
        entries.update(layout.split(prefix, buffers))
    return entries


def _steps(checkpoint, form, formula, state_step_before):
    """Reads the counts from the counters and beta powers of a MindSpore optimizer."""
    counts = {
        name: _whole_number(name, checkpoint[name], -1) for name in _COUNTERS if name in checkpoint
    }
    powers = {name: _power(name, checkpoint.get(name, math.nan)) for name in _POWERS}
    update_count = None
    if "update_count" in checkpoint and not _replaced(checkpoint, powers):
        update_count = _whole_number("update_count", checkpoint["update_count"], 0)
        if update_count > 0:
            steps = counts.get("global_step")
            return Steps((update_count,), global_step=None if steps is None else max(0, steps))
    for name, count in counts.items():
        if count == -1:
            return Steps((0,))
        kind = array(checkpoint[name], name).dtype.kind
        if form is _TORCH and not (name == "state_step" and kind == "i"):
            if state_step_before is not None:
                return Steps((count - state_step_before,))
            # Same names, two conventions. The int state_step of mindspore.experimental is clear.
            return Steps(
                (count, count + 1),
                f"its {name} is {count}: {count} steps of an "
                f"optimizer that counts from 0 (mint.optim.Adam), {count + 1} of one that "
                "counts from -1 (mint.optim.AdamW, MindFormers FusedAdamW)",
            )
        if count > 0:
            return _checked(name, count, update_count, powers, formula)
    return _from_powers(powers, formula, counted=bool(counts) or "update_count" in checkpoint)


def _replaced(checkpoint, powers):
    """Returns whether another state was loaded after the last update; see `scalars.UpdateCount`."""
    last = powers["beta1_power" if math.isnan(powers["beta2_power"]) else "beta2_power"]
    counted = _power("counted_power", checkpoint.get("counted_power", last))
    return not math.isnan(last) and counted != last


def _whole_number(name, value, least):
    """Returns the count that an entry holds, of any dtype, of shape (1,) or ()."""
    counter = array(value, name)
    number = counter.reshape(-1)[0] if counter.size == 1 and counter.dtype.kind in "iuf" else None
    if number is None or float(number) % 1 or not least <= number < 2**31:  # NaN % 1 is true
        raise ValueError(
            f"the entry '{name}' must be one whole number in [{least}, 2^31), but is {counter}."
        )
    return int(number)


def _power(name, value):
    """Returns the number that an entry holds."""
    power = array(value, name)
    if power.size != 1 or power.dtype.kind != "f":
        raise ValueError(f"the entry '{name}' must be one floating-point number, but is {power}.")
    return np.float32(power.reshape(-1)[0])


def _checked(name, count, update_count, powers, formula):
    """Returns the count of the updates, checked against the beta powers.

    MindCV's AdamW advances `global_step` on each call and its powers on each update; mindone
    advances `global_step` itself. An `update_count` of 0 may be that of a fresh optimizer into
    which another one's state was loaded.
    """
    made = updates_made(update_count, count, *powers.values(), formula.beta1, formula.beta2)
    if made in (count, update_count):
        return Steps((made,), global_step=count)
    message = " and ".join(
        f"{power} = {value:.6g}" for power, value in powers.items() if not math.isnan(value)
    )
    return Steps(
        (made, count),
        global_step=count,
        doubt=(
            f"its {name} is {count}, but {message} are those of {made} updates with "
            f"beta1={formula.beta1}, beta2={formula.beta2}"
        ),
    )


def _from_powers(powers, formula, counted):
    """Returns the count from the powers: MindSpore 2.0 counts nothing at a fixed learning rate.

    beta2_power tells it, or beta1_power where the former is 0. Only an exact match counts, since
    there is nothing else to check it with.
    """
    for (name, power), beta in zip(reversed(list(powers.items())), (formula.beta2, formula.beta1)):
        if not 0.0 < beta < 1.0:
            continue
        if power == 1.0 and counted:
            return Steps((0,))
        if not 0.0 < power < 1.0:
            continue
        count = exact_count(power_range(power, beta))
        if count is not None:
            return Steps((count,))
        return Steps(
            (), f"its {name} = {power} is that of no number of steps, or of several, with {beta}"
        )
    return Steps((0,)) if counted else Steps((), "it holds neither a step count nor beta powers")
