"""Reads, converts and gathers the state of optimizers: `load_state` and its relatives."""

from __future__ import annotations

import binascii
import contextlib
import os
import zipfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

import numpy as np
from mindspore import Parameter, Tensor, log, nn

from ms_adam import checkpoint_forms as forms
from ms_adam import eight_bit, narrow_state, state
from ms_adam.atomic_write import atomic_write
from ms_adam.compat import load_checkpoint, save_checkpoint
from ms_adam.sharding import Collect

_WIDENINGS = {"float32": ("float16", "bfloat16", "float32"), "float64": ("float32", "float64")}
_CRC_MARK = b"crc_num"  # MindSpore ends a file so under crc_check=True: this and 10 bytes
_CRC_LENGTH = len(_CRC_MARK) + 10
_CHUNK = 1 << 24
_ZIP = b"PK\x03\x04"
_TORCH_BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled magic number
_KINDS = {".ckpt": "ckpt", ".safetensors": "safetensors"}
_AT_THE_WEIGHTS = ("ema", "master_weight")  # where a checkpoint has none

Checkpoint = Union[str, os.PathLike, Dict[str, Any], List[Any]]
Names = Union[List[str], Dict[int, str]]


def load_state(
    optimizer: nn.Optimizer,
    checkpoint: Checkpoint,
    *,
    step: Optional[int] = None,
    names: Optional[Names] = None,
) -> None:
    """Sets the moments and the counters of an optimizer from a checkpoint.

    Reads the state of `nn.Adam` (``moment1.``, ``moment2.``, ``vhat.``) and of an optimizer of ours
    with any backend and layout; of `nn.AdamWeightDecay`, MindCV and MindFormers AdamW (``adam_m.``,
    ``adam_v.``); of `mindspore.mint.optim`, `mindspore.experimental.optim` and MindFormers
    FusedAdamW (``exp_avg.``, ``exp_avg_sq.``); of `torch.optim.Adam` and `AdamW`; and of the 8-bit
    ones of bitsandbytes, which are decoded to float32. Anything may precede these names, here and
    in the checkpoint (`update_parameters_name`, or a Cell that owns the optimizer). The parameters
    may be in any order. Moments may be of a narrower dtype than ours. Weights and learning rates
    are not loaded: use `mindspore.load_param_into_net` for them.

    With `ema_decay`, averages are read from ``ema.``, where ours, the train steps of MindCV and the
    EMA of mindone keep them. In a checkpoint without any they begin at the weights, and so do the
    copies of `master_weights`.

    There are two counters. `global_step`, which schedules read, is taken from the checkpoint.
    `update_count`, which the bias correction reads, is the entry of that name. In a checkpoint
    without one it is `global_step`, unless the beta powers are those of another count; then it is
    that count, and a warning has both numbers. MindCV's AdamW writes such checkpoints when it
    accumulates gradients: its `global_step` counts calls.

    A float `state_step` counts from 0 in `mint.optim.Adam`, and from -1 in `mint.optim.AdamW` and
    MindFormers FusedAdamW: `ms_adam.mint.Adam` and `AdamW` read that of their namesake, and the
    others need `step`.

    Args:
        optimizer: one of ours, of any backend and layout, or of `ms_adam.mint`.
        checkpoint: a path (``.ckpt``, or ``.safetensors``); a dict from names to Parameters,
            Tensors or arrays; or the ``state_dict()`` of an optimizer of PyTorch or bitsandbytes,
            with arrays for tensors. With ``shard_state=True``, the whole state, of which each rank
            takes its share; or this rank's share, saved from as many ranks. A list holds the shares
            of all ranks, paths or dicts, for any optimizer.
        step: the number of updates made, where the checkpoint does not hold it, or holds two.
        names: for a state_dict of PyTorch, which numbers its parameters, their names here: a list
            in its order, or a dict from its numbers.

    Raises:
        TypeError: If `optimizer` is not ours; if `checkpoint` is neither a path nor a dict; if
            `names` is missing, given for a checkpoint with names, or of the wrong type; if `step`
            is not an int.
        ValueError: If a file is damaged (a changed bit is found for certain only in a file saved
            with ``crc_check=True``) or is one of `torch.save`; if an entry is missing, unexpected,
            or of another shape or dtype: the message lists all of them; if the state is of AdaMax
            and the optimizer is not, or the reverse; if the number of updates is in neither the
            checkpoint nor `step`, or `step` contradicts the checkpoint.
        RuntimeError: Within `averaged`.
        OSError: If a file cannot be read.

    After any of these errors the optimizer is unchanged.

    Example:
        >>> import ms_adam
        >>> from mindspore import nn
        >>> params = nn.Dense(4, 2).trainable_params()
        >>> old, new = nn.Adam(params), ms_adam.Adam(params, flat_state=True)
        >>> ms_adam.load_state(new, old.parameters_dict())
    """
    core = core_of(optimizer)
    with _naming(core):
        values = _read_state(core, checkpoint, step, names).values
    if core is not optimizer and optimizer.count_alike():
        core = core_of(optimizer)
        values = _read_state(core, checkpoint, step, names).values
    host = state.on_host(core)
    for parameter, value in values:
        state.write(parameter, value, id(parameter) in host)


def convert_checkpoint(
    source: Checkpoint,
    target: Union[str, os.PathLike],
    optimizer: nn.Optimizer,
    *,
    step: Optional[int] = None,
    names: Optional[Names] = None,
) -> None:
    """Writes a checkpoint of another Adam as one that an optimizer of ours would have saved.

    For trainers that resume by themselves, with `mindspore.load_checkpoint` and
    `mindspore.load_param_into_net`: these match names, and would leave the moments at zero where
    the names differ. `target` holds the state under the names and in the layout of `optimizer`, and
    every other entry of `source` unchanged: weights, ``learning_rate``, ``epoch_num``. A prefix
    that precedes their names there is replaced with that of `optimizer`.

    Weights that `source` lacks are written as `optimizer` has them, with a warning. Without them,
    `load_param_into_net` would load each weight from the moment whose name ends with its own.

    Args:
        source: any checkpoint that `load_state` reads. It is not changed.
        target: the file to write, ``.ckpt`` or ``.safetensors``. It appears whole or not at all; a
            file of that name is replaced.
        optimizer: the optimizer that will read `target`. It is not changed. With
            ``shard_state=True``, `target` holds the share of this rank: give each rank its own.
        step: as in `load_state`.
        names: as in `load_state`.

    Raises:
        TypeError: If `target` is not a path, or an entry of `source` cannot be saved; and as
            `load_state`.
        ValueError: If `target` does not end in ``.ckpt`` or ``.safetensors``, or is `source`; and
            as `load_state`.
        OSError: If a file cannot be read or written.

    Example:
        >>> import mindspore as ms
        >>> import ms_adam
        >>> from mindspore import nn
        >>> params = nn.Dense(4, 2).trainable_params()
        >>> old, new = nn.AdamWeightDecay(params), ms_adam.AdamW(params)
        >>> ms.save_checkpoint(old, "old.ckpt")  # doctest: +SKIP
        >>> ms_adam.convert_checkpoint("old.ckpt", "new.ckpt", new)  # doctest: +SKIP
        >>> ms.load_param_into_net(new, ms.load_checkpoint("new.ckpt"))  # doctest: +SKIP
    """
    optimizer = core_of(optimizer)
    with _naming(optimizer):
        kind = _check_target(source, target)
        reading = _read_state(optimizer, source, step, names, with_weights=True)
        entries = _with_weights(reading.others, optimizer)
        entries.update(
            (parameter.name, Tensor(value, parameter.dtype)) for parameter, value in reading.values
        )
        for layout in (state.FLAT_LAYOUT, state.SHARD_LAYOUT):
            if hasattr(optimizer, layout):
                entries[getattr(optimizer, layout).name] = getattr(optimizer, layout)
        entries = {name: _savable(name, value) for name, value in entries.items()}
    target = Path(target)
    with atomic_write(target.parent) as writing:
        save_checkpoint(entries, str(writing / target.name), kind)


class _Reading(NamedTuple):
    """The content of a checkpoint, as an optimizer takes it.

    Attributes:
        values: (Parameter of the optimizer, array) pairs.
        others: the checkpoint's other entries, under the names that the optimizer has for them.
    """

    values: list
    others: Dict[str, Any]


def _read_state(
    optimizer: nn.Optimizer,
    checkpoint: Any,
    step: Optional[int],
    names: Optional[Names],
    with_weights: bool = False,
) -> _Reading:
    """Reads a checkpoint for an optimizer, or raises; changes nothing.

    Args:
        with_weights: whether the state will stand beside the weights of the checkpoint, or beside
            those that the optimizer has now.
    """
    _check_step(step)
    whole = isinstance(checkpoint, (list, tuple))
    if whole:
        content = forms.joined([_content(part, optimizer, names) for part in checkpoint])
    else:
        content = _content(checkpoint, optimizer, names)
    wanted, every = slots(optimizer), _all_entries(optimizer)
    given = _comparable(content.entries, every)
    if content.share is not None:
        _check_share(content.share, optimizer)
    else:
        given = _own_rows(given, every, optimizer.shares.owned)
    weights = [
        _weight_there(content, name, parameter)
        for name, parameter in zip(optimizer.check.names, optimizer.parameters)
    ]
    lacking = set(_AT_THE_WEIGHTS) - {name.partition(".")[0] for name in content.entries}
    given.update(_weights_in_place_of(lacking, optimizer, wanted, weights))
    given = _sums_taken(optimizer, given, wanted, content)
    elsewhere = {entry.name for entry in every if entry.name.partition(".")[0] not in lacking}
    elsewhere -= set(wanted)
    problems = _differences(given, wanted, elsewhere, whole, content.spelled)
    if problems:
        raise ValueError("the checkpoint does not fit:\n  " + "\n  ".join(problems))
    updates, global_step = _counts(optimizer, content.steps, step, given)

    for name, slot in wanted.items():
        slot.rows[...] = given[name]
    # A buffer may hold many parameters, but is written once.
    buffers = {id(slot.buffer): (slot.parameter, slot.buffer) for slot in wanted.values()}
    beside = weights if with_weights else optimizer.parameters
    return _Reading(
        [
            *narrow_state.as_stored(optimizer, buffers.values(), beside),
            (optimizer.global_step, np.full(optimizer.global_step.shape, global_step)),
        ]
        + state.numbers_after(optimizer, updates)
        + _carried_numbers(optimizer, content),
        _renamed(content, optimizer),
    )


def _carried_numbers(optimizer, content):
    """Returns (Parameter, array) of the numbers that a checkpoint may lack: loss scale, skips."""
    found = []
    for names, number in carried(optimizer):
        # A scaler that two optimizers share has the prefix of one of them.
        there = (*(content.prefix + name for name in names), number.name)
        value = next((content.others[name] for name in there if name in content.others), None)
        if value is not None:
            value = forms.array(value, names[0])
            if value.size != number.size:
                raise ValueError(
                    f"the checkpoint does not fit:\n  {names[0]} has shape {value.shape}, must be "
                    f"{number.shape}"
                )
            value = value.astype(state.dtype_name(number.dtype)).reshape(number.shape)
            found.append((number, value))
    return found


def carried(optimizer: Any) -> List[Tuple[Tuple[str, str, str], Parameter]]:
    """Returns (names, number) of the numbers that a checkpoint may lack.

    The names are those in checkpoints, without a prefix, the one to write first: the counter of a
    scaler has its own name, until a Cell that owns the optimizer gives it ours.
    """
    prefix, found = _prefix(optimizer), []
    for name, number in optimizer.state.carried().items():
        own = number.name[len(prefix) :] if number.name.startswith(prefix) else name
        found.append(((own, name, name.replace("scale_counter", "counter")), number))
    return found


def updates_of(optimizer: Any) -> int:
    """Returns how many updates the next step counts as made; see `scalars.UpdateCount`."""
    numbers = optimizer.state.numbers
    power = numbers.get("beta2_power", numbers["beta1_power"]).asnumpy().reshape(())
    if power == numbers["counted_power"].asnumpy():
        return int(numbers["update_count"].asnumpy()[0])
    return 0 if power == 1.0 else max(0, int(optimizer.global_step.asnumpy().reshape(-1)[0]))


def _sums_taken(optimizer, given, wanted, content):
    """Returns the entries with the sums that the optimizer wants, and no others."""
    sums = {name for name in wanted if name.partition(".")[0] in state.SUMS}
    there = {name for name in content.entries if name.partition(".")[0] in state.SUMS}
    count = content.others.get(content.prefix + "accumulated")
    count = 0 if count is None else int(forms.array(count, "accumulated").reshape(-1)[0])
    if count and not sums:
        log.warning(
            f"For '{type(optimizer).__name__}', the checkpoint was saved after {count} of several "
            "calls that make one update. Their gradients are lost, since this optimizer was made "
            "without accumulate_steps."
        )
    if not sums or not there:
        given = {name: value for name, value in given.items() if name not in there}
        given.update((name, np.zeros_like(wanted[name].rows)) for name in sums)
    return given


def _weight_there(content, name, parameter):
    """Returns the weight of a parameter in a checkpoint, or else the parameter."""
    there = content.others.get(name, content.others.get(content.prefix + name))
    fits = hasattr(there, "shape") and tuple(there.shape) == parameter.shape
    return there if fits else parameter


def _weights_in_place_of(lacking, optimizer, wanted, weights):
    """Returns the averages or masters that a checkpoint lacks."""
    found = {}
    for name, weight, own in zip(optimizer.check.names, weights, optimizer.shares.owned):
        for entry in [f"{kind}.{name}" for kind in lacking if f"{kind}.{name}" in wanted]:
            rows = wanted[entry].rows
            narrow = rows.dtype == np.float32  # bfloat16, which NumPy lacks, for one
            wide = narrow_state.in_float32(weight) if narrow else forms.array(weight, name)
            found[entry] = wide.reshape(-1)[own[0] : sum(own)].reshape(rows.shape)
    return found


def core_of(optimizer: Any) -> Any:
    """Returns the optimizer that owns the state: that within one of `ms_adam.mint`, or itself."""
    core = getattr(optimizer, "core", None)
    return core if hasattr(core, "shares") else optimizer


@contextlib.contextmanager
def _naming(optimizer):
    """Puts the name of an optimizer's class before errors.

    Raises:
        TypeError: If it is not ours.
        RuntimeError: Within `averaged`, where weights and averages have changed places.
    """
    class_name = type(optimizer).__name__
    if not all(hasattr(optimizer, name) for name in ("state", "shares", "global_step")):
        raise TypeError(
            f"'optimizer' must be an Adam, AdamW or AdaMax of ms_adam, but got {class_name} of "
            f"{type(optimizer).__module__}."
        )
    if optimizer.is_averaged:
        raise RuntimeError(
            f"For '{class_name}', within averaged() the weights and the averages have changed "
            "places: load or save the state outside of it."
        )
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"For '{class_name}', {error}") from error


def gather_state(optimizer: nn.Optimizer) -> Dict[str, Parameter]:
    """Returns the whole state of an optimizer with ``shard_state=True``, gathered from all ranks.

    Every rank must call it, and every rank gets the whole state. One of them may save it:
    `load_state` reads it into any number of ranks, and into an optimizer without shards.

    Args:
        optimizer: one of ours, or of `ms_adam.mint`, with shards or without.

    Returns:
        "moment1.<parameter>" and so on, "beta1_power", "beta2_power", "counted_power",
        "global_step" and "update_count"; copies.

    Raises:
        TypeError: If `optimizer` is not ours.
        RuntimeError: Within `averaged`.

    Example:
        >>> state = ms_adam.gather_state(optimizer)  # doctest: +SKIP
        >>> if get_rank() == 0:  # doctest: +SKIP
        ...     ms.save_checkpoint(
        ...         [{"name": name, "data": data} for name, data in state.items()], "adam.ckpt"
        ...     )
    """
    optimizer = core_of(optimizer)
    with _naming(optimizer):
        values = {name: slot.rows for name, slot in slots(optimizer).items()}
    if optimizer.shares.ranks > 1:
        every = _all_entries(optimizer)
        sums = {entry.name: values[entry.name] for entry in every if entry.is_sum}
        divided = [entry for entry in every if not entry.is_sum]
        values = {**_from_all_ranks(values, divided, optimizer.shares), **sums}
    for name in sorted(("global_step", *optimizer.state.after)):
        values[name] = getattr(optimizer, name).asnumpy()
    for names, number in carried(optimizer):
        values[names[0]] = number.asnumpy()
    return {
        name: Parameter(Tensor(np.array(value)), name, requires_grad=False)
        for name, value in values.items()
    }


def bitsandbytes_state(
    optimizer: nn.Optimizer, *, min_8bit_size: int = eight_bit.LEAST_SIZE
) -> Dict[str, Any]:
    """Returns the moments of an optimizer as bitsandbytes keeps them in 8 bits.

    Each moment is rounded to the nearest of the 256 numbers of its block of 256 elements; a
    positive second moment is not rounded to 0, since a step divides by its root. `load_state` reads
    the result. Weights, averages and accumulated gradients are not in it. With ``shard_state=True``
    every rank must call this.

    Args:
        optimizer: an `Adam` or `AdamW` of ours, of any `state_dtype`, or of `ms_adam.mint`.
        min_8bit_size: smaller parameters are kept in float32; give what bitsandbytes was given.

    Returns:
        {"state": {i: {"step", "state1", "state2", "qmap1", "qmap2", "absmax1", "absmax2"}},
        "param_groups"}, where i counts the parameters in the order of ``optimizer.parameters``, and
        arrays are NumPy's. The only group has no learning rate: keep that of bitsandbytes.

    Raises:
        TypeError: If `optimizer` is not ours.
        ValueError: If it is an `AdaMax`, or has ``use_amsgrad=True``.

    Example:
        >>> state = ms_adam.bitsandbytes_state(optimizer)["state"]  # doctest: +SKIP
        >>> tensors = {  # doctest: +SKIP
        ...     i: {name: torch.as_tensor(value) for name, value in one.items() if name != "step"}
        ...     for i, one in state.items()
        ... }
        >>> for i, one in state.items():  # doctest: +SKIP
        ...     tensors[i]["step"] = one["step"]
        >>> adam = bitsandbytes.optim.AdamW8bit(model.parameters())  # doctest: +SKIP
        >>> adam.load_state_dict({**adam.state_dict(), "state": tensors})  # doctest: +SKIP
    """
    core = core_of(optimizer)
    with _naming(core):
        if core.formula.infinity_norm or core.formula.amsgrad:
            raise ValueError("bitsandbytes has no maxima, neither of AdaMax nor of AMSGrad.")
        step, names = updates_of(core), core.check.names
        return eight_bit.narrowed(names, gather_state(core), step, min_8bit_size)


def _from_all_ranks(mine, entries, shares):
    """Returns {name: array} of all entries, from each rank's rows, in one message."""

    def words(i, size):
        return size * entries[i].dtype.itemsize // 4

    collect = Collect([shares.pieces[entry.place] for entry in entries], words, shares)
    row = np.zeros(collect.length, np.int32)
    found = {entry.name: np.zeros(entry.shape, entry.dtype) for entry in entries}
    flat = [found[entry.name].reshape(-1) for entry in entries]
    for i, begin, size, at in collect.mine:
        flat[i][begin : begin + size] = mine[entries[i].name].reshape(-1)
        row[at : at + words(i, size)] = flat[i][begin : begin + size].view(np.int32)
    rows = collect(Tensor(row)).asnumpy()
    for i, begin, size, at in collect.others:
        flat[i][begin : begin + size] = rows[at : at + words(i, size)].view(flat[i].dtype)
    return found


def _check_share(share, optimizer):
    """Raises ValueError unless a share is that of this rank."""
    shares = optimizer.shares
    names = [name for name, own in zip(optimizer.check.names, shares.owned) if own is not None]
    here = state.ShardLayout.of(optimizer.parameters, shares.owned)._replace(names=names)
    if share != here:
        raise ValueError(
            "the checkpoint is the share of another rank or of another number of ranks, not of "
            f"rank {shares.rank} of {shares.ranks}: give those of all ranks in a list."
        )


def _own_rows(given, entries, owned):
    """Returns a whole state, cut down to the rows that this process keeps."""
    cut = dict(given)
    for entry in entries:
        value, own = given.get(entry.name), owned[entry.place]
        if entry.is_sum:
            continue
        if value is not None and own is not None and value.shape == entry.shape:
            rows = state.shape_of_rows(entry.shape, own[1])
            cut[entry.name] = value.reshape(-1)[own[0] : sum(own)].reshape(rows)
    return cut


def _all_entries(optimizer):
    return state.named_entries(
        optimizer.check.names, optimizer.parameters, optimizer.formula, optimizer.execution
    )


def _content(checkpoint, optimizer, names):
    if isinstance(checkpoint, (str, os.PathLike)):
        checkpoint = read(checkpoint)
    if not isinstance(checkpoint, dict):
        raise TypeError(
            "'checkpoint' must be a path, a dict, or a list of such, but got "
            f"{type(checkpoint).__name__}: {checkpoint!r}."
        )
    if forms.is_torch(checkpoint):
        return forms.torch(eight_bit.widened(checkpoint), names, optimizer.formula)
    content = forms.named(
        narrow_state.widened(checkpoint, optimizer),
        optimizer.formula,
        optimizer.check.names,
        _prefix(optimizer),
        getattr(optimizer, "state_step_before", None),
    )
    if names is not None:
        raise TypeError(
            "'names' is for a state_dict of torch, which numbers its parameters, but "
            f"the entries of this checkpoint have names; got {names!r}."
        )
    return content


def _prefix(optimizer):
    """Returns the prefix of the names of an optimizer's own Parameters."""
    return optimizer.global_step.name[: -len("global_step")]


def _renamed(content, optimizer):
    """Returns a checkpoint's other entries, with the optimizer's prefix for the checkpoint's."""
    here = {parameter.name for parameter in optimizer.get_parameters()}
    others = dict(content.others)
    for name, value in content.others.items():
        new = _prefix(optimizer) + name[len(content.prefix) :]
        if name.startswith(content.prefix) and new in here and new not in others:
            del others[name]
            others[new] = value
    return others


def _with_weights(others, optimizer):
    """Returns a checkpoint's other entries and the weights that are missing there."""
    weights = {parameter.name: parameter for parameter in optimizer.parameters}
    missing = [name for name in weights if name not in others]
    if missing:
        log.warning(
            f"For '{type(optimizer).__name__}', the checkpoint to convert lacks the weights of "
            f"{len(missing)} of {len(weights)} parameters, the first of them '{missing[0]}'. They "
            "are written as the optimizer has them now."
        )
    return {**others, **{name: weights[name] for name in missing}}


def _check_target(source, target):
    """Returns the kind of file to write."""
    if not isinstance(target, (str, os.PathLike)):
        raise TypeError(f"'target' must be a path, but got {type(target).__name__}: {target!r}.")
    path = os.fspath(target)
    suffix = os.path.splitext(path)[1]
    if suffix not in _KINDS:
        raise ValueError(f"'target' must end in {' or '.join(_KINDS)}, but is {path!r}.")
    for part in source if isinstance(source, (list, tuple)) else (source,):
        is_file = isinstance(part, (str, os.PathLike)) and os.path.exists(part)
        if is_file and os.path.exists(path) and os.path.samefile(part, path):
            raise ValueError(f"'target' must be another file than 'source', but both are {path!r}.")
    return _KINDS[suffix]


def _savable(name, value):
    """Returns an entry in a form that `mindspore.save_checkpoint` accepts."""
    if isinstance(value, (Tensor, str)):
        return value
    try:
        return Tensor(forms.array(value, name))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"the entry '{name}' must be a Parameter, Tensor, array or str to be saved, but is "
            f"{type(value).__name__}: {value!r}."
        ) from error


def read(path: Union[str, os.PathLike]) -> Dict[str, Any]:
    """Reads a checkpoint file of MindSpore.

    Args:
        path: ends in ``.safetensors`` where it is of that format.

    Returns:
        {name: Parameter}.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged, of `torch.save`, or of a kind that this release of MindSpore
            cannot read; the message names it.
    """
    path = os.fspath(path)
    if _is_of_torch(path):
        raise ValueError(
            f"{path}: is a file of torch.save, which is not unpickled here. Read it "
            "with torch.load(path, map_location='cpu') and give the state_dict of the "
            "optimizer in it, as a dict, with names=[...] for its parameters; that "
            "state_dict has the keys 'state' and 'param_groups'"
        )
    has_crc = crc(path)
    if has_crc is False:
        raise ValueError(f"{path}: is damaged: its content does not have the CRC that it ends with")
    kind = "safetensors" if path.endswith(".safetensors") else "ckpt"
    try:
        return load_checkpoint(path, kind, has_crc)
    except NotImplementedError as error:  # of compat: an older release; the file is not to blame
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # MindSpore, protobuf and safetensors each have their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path}: cannot be read as a checkpoint, it may be cut short or damaged: {reason}"
        ) from error


def _is_of_torch(path):
    """Returns whether `torch.save` wrote a file; nothing of it is unpickled."""
    with open(path, "rb") as file:
        head = file.read(4096)
    if head.startswith(_TORCH_BEFORE_1_6):
        return True
    if not head.startswith(_ZIP):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:  # cut short: its list of names, at the end, is missing
        return b"data.pkl" in head


def crc(path: Union[str, os.PathLike]) -> Optional[bool]:
    """Returns whether a file has the CRC32 that it ends with; None if it ends without one.

    ``mindspore.save_checkpoint(..., crc_check=True)`` writes it. It is computed here in pieces, and
    without the message about permissions that `load_checkpoint` prints for a changed file.
    """
    with open(path, "rb") as file:
        left = os.fstat(file.fileno()).st_size - _CRC_LENGTH
        file.seek(max(0, left))
        end = file.read()
        if left < 0 or not end.startswith(_CRC_MARK):
            return None
        file.seek(0)
        value = 0
        while left > 0:
            piece = file.read(min(left, _CHUNK))
            value = binascii.crc32(piece, value)
            left -= len(piece)
    return value == int.from_bytes(end[len(_CRC_MARK) :], "big")


class _Slot(NamedTuple):
    """An entry of one parameter in the optimizer: `rows` is its part of a copy of a buffer.

    Narrow entries are copied as what they stand for: float32 moments and master weights.
    """

    parameter: Parameter
    buffer: np.ndarray
    rows: np.ndarray


def slots(optimizer):
    """Returns {entry name: slot} of the entries that this process keeps."""
    names, layout = optimizer.check.names, optimizer.state.layout
    weights = zip(optimizer.state.weights, optimizer.parameters)
    masters = [None if weight is parameter else weight for weight, parameter in weights]
    whole: Dict[str, Any] = {"master_weight": masters, "accumulator": optimizer.state.accumulators}
    slots = {}
    if layout is None:
        whole.update(optimizer.state.moments)
    else:
        for prefix, buffers in optimizer.state.moments.items():
            copies = {k: (b, narrow_state.copied(b)) for k, b in zip(layout.sizes(), buffers)}
            rows = layout.split(prefix, {key: copy for key, (_, copy) in copies.items()})
            for name, key in zip(rows, layout.dtypes):
                slots[name] = _Slot(*copies[key], rows[name])
    for prefix, buffers in whole.items():
        for i, (name, buffer) in enumerate(zip(names, buffers)):
            if buffer is not None:
                copy = narrow_state.copied(buffer, prefix, optimizer, i)
                slots[f"{prefix}.{name}"] = _Slot(buffer, copy, copy)
    return slots


def _comparable(entries, every):
    """Returns the entries without two differences that carry no information."""
    given = dict(entries)
    for entry in every:
        if 0 in entry.shape:  # files of MindSpore lack empty tensors
            given.setdefault(entry.name, np.zeros(entry.shape, entry.dtype))
    # mindspore.experimental keeps maxima without AMSGrad too, and never writes them.
    if not any(entry.name.startswith("vhat.") for entry in every):
        given = {
            name: value
            for name, value in given.items()
            if not name.startswith("vhat.") or value.any()
        }
    return given


def _differences(given, wanted, elsewhere, whole, spelled):
    """Returns one message for each entry that does not fit.

    Args:
        given: the entries of the checkpoint.
        wanted: the entries that this process keeps.
        elsewhere: the names of the entries that other ranks keep.
        whole: whether the checkpoint must have them too.
        spelled: maps a name to its name in the checkpoint.
    """
    needed = set(wanted) | elsewhere if whole else set(wanted)
    problems = [f"missing: {spelled(name)}" for name in sorted(needed - set(given))]
    problems += [
        f"not expected: {spelled(name)}" for name in sorted(set(given) - set(wanted) - elsewhere)
    ]
    for name in sorted(set(given) & set(wanted)):
        value, slot = given[name], wanted[name]
        if value.shape != slot.rows.shape:
            problems.append(f"{spelled(name)} has shape {value.shape}, must be {slot.rows.shape}")
        elif str(value.dtype) not in _WIDENINGS[str(slot.buffer.dtype)]:
            problems.append(f"{spelled(name)} is {value.dtype}, must be {slot.buffer.dtype}")
    return problems


def _check_step(step):
    if step is None:
        return
    if isinstance(step, bool) or not isinstance(step, (int, np.integer)):
        raise TypeError(f"'step' must be an int, but got {step!r}.")
    if not 0 <= step < 2**31:
        raise ValueError(f"'step' must be in [0, 2^31), but got {step}.")


def _counts(optimizer, steps, step, given):
    """Returns the update count and the global step that a checkpoint and the caller agree on."""
    possible, why = steps.updates, steps.why
    # Averages are not looked at: they may begin at the weights.
    moments = [
        value for name, value in given.items() if name.partition(".")[0] in narrow_state.MOMENTS
    ]
    if possible == (0,) and any(value.any() for value in moments):
        possible, why = (), "it counts 0 steps, but its moments are not zero"
    if step is not None:
        if possible and step not in possible:
            raise ValueError(
                f"step={step} contradicts the checkpoint, after which "
                f"{' or '.join(map(str, possible))} steps were made."
            )
        updates = int(step)
    elif steps.doubt:
        updates = possible[0]
        log.warning(
            f"For '{type(optimizer).__name__}', the checkpoint counts differently in two places: "
            f"{steps.doubt}. Bias correction continues from {updates}, schedules from "
            f"{steps.global_step}. If it should continue from another count, load it with "
            f"step={' or step='.join(map(str, possible))}."
        )
    elif len(possible) == 1:
        updates = possible[0]
    else:
        raise ValueError(
            f"the checkpoint does not tell how many steps were made: {why}. Say it with step=."
        )
    return updates, updates if steps.global_step is None else steps.global_step
