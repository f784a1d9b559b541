"""Reads, converts and gathers the state of optimizers: `load_state` and its relatives."""

from __future__ import annotations

import binascii
import os
import zipfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Union

import numpy as np
from mindspore import Parameter, Tensor, log, nn

from ms_adam import checkpoint_forms as forms
from ms_adam import state
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
    FusedAdamW (``exp_avg.``, ``exp_avg_sq.``); and of `torch.optim.Adam` and `AdamW`. Anything may
    precede these names, here and in the checkpoint (`update_parameters_name`, or a Cell that owns
    the optimizer). The parameters may be in any order. Moments may be of a narrower dtype than
    ours. Weights and learning rates are not loaded: use `mindspore.load_param_into_net` for them.

    There are two counters. `global_step`, which schedules read, is taken from the checkpoint.
    `update_count`, which the bias correction reads, is the entry of that name. In a checkpoint
    without one it is `global_step`, unless the beta powers are those of another count; then it is
    that count, and a warning has both numbers. MindCV's AdamW writes such checkpoints when it
    accumulates gradients: its `global_step` counts calls.

    Args:
        optimizer: an `Adam` or `AdamW` of ours, of any backend and layout.
        checkpoint: a path (``.ckpt``, or ``.safetensors``); a dict from names to Parameters,
            Tensors or arrays; or the ``state_dict()`` of an optimizer of PyTorch, with arrays for
            tensors. With ``shard_state=True``, the whole state, of which each rank takes its
            share; or this rank's share, saved from as many ranks. A list holds the shares of all
            ranks, paths or dicts, for any optimizer.
        step: the number of updates made, where the checkpoint does not hold it, or holds two.
        names: for a state_dict of PyTorch, which numbers its parameters, their names here: a list
            in its order, or a dict from its numbers.

    Raises:
        TypeError: If `optimizer` is not ours; if `checkpoint` is neither a path nor a dict; if
            `names` is missing, given for a checkpoint with names, or of the wrong type; if `step`
            is not an int.
        ValueError: If a file is damaged (a changed bit is found for certain only in a file saved
            with ``crc_check=True``) or is one of `torch.save`; if an entry is missing, unexpected,
            or of another shape or dtype: the message lists all of them; if the number of updates is
            in neither the checkpoint nor `step`, or `step` contradicts the checkpoint.
        OSError: If a file cannot be read.

    After any of these errors the optimizer is unchanged.

    Example:
        >>> import ms_adam
        >>> from mindspore import nn
        >>> params = nn.Dense(4, 2).trainable_params()
        >>> old, new = nn.Adam(params), ms_adam.Adam(params, flat_state=True)
        >>> ms_adam.load_state(new, old.parameters_dict())
    """
    values = _read_state(optimizer, checkpoint, step, names).values
    host = state.on_host(optimizer)
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
    class_name = type(optimizer).__name__
    kind = _check_target(class_name, source, target)
    reading = _read_state(optimizer, source, step, names)
    entries = _with_weights(class_name, reading.others, optimizer)
    entries.update(
        (parameter.name, Tensor(value, parameter.dtype)) for parameter, value in reading.values
    )
    for layout in (state.FLAT_LAYOUT, state.SHARD_LAYOUT):
        if hasattr(optimizer, layout):
            entries[getattr(optimizer, layout).name] = getattr(optimizer, layout)
    entries = {name: _savable(class_name, name, value) for name, value in entries.items()}
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
    optimizer: nn.Optimizer, checkpoint: Any, step: Optional[int], names: Optional[Names]
) -> _Reading:
    """Reads a checkpoint for an optimizer, or raises; changes nothing."""
    class_name = type(optimizer).__name__
    if not all(hasattr(optimizer, name) for name in ("state", "shares", "global_step")):
        raise TypeError(
            f"'optimizer' must be an Adam, AdamW or AdaMax of ms_adam, but got {class_name} of "
            f"{type(optimizer).__module__}."
        )
    _check_step(class_name, step)
    whole = isinstance(checkpoint, (list, tuple))
    try:
        contents = [
            _content(part, optimizer, names) for part in (checkpoint if whole else [checkpoint])
        ]
        content = forms.joined(contents) if whole else contents[0]
    except (TypeError, ValueError) as error:
        raise type(error)(f"For '{class_name}', {error}") from error
    wanted = _slots(optimizer)
    every = _all_entries(optimizer)
    given = _comparable(content.entries, every)
    if content.share is not None:
        _check_share(class_name, content.share, optimizer)
    else:
        given = _own_rows(given, every, optimizer.shares.owned)
    elsewhere = {entry.name for entry in every} - set(wanted)
    problems = _differences(given, wanted, elsewhere, whole, content.spelled)
    if problems:
        raise ValueError(
            f"For '{class_name}', the checkpoint does not fit:\n  " + "\n  ".join(problems)
        )
    updates, global_step = _counts(class_name, content.steps, step, given)

    for name, slot in wanted.items():
        slot.fill(given[name])
    # A buffer may hold many parameters, but is written once.
    buffers = {id(slot.buffer): slot for slot in wanted.values()}.values()
    return _Reading(
        [(slot.parameter, slot.buffer) for slot in buffers]
        + [(optimizer.global_step, np.array([global_step], np.int32))]
        + state.numbers_after(optimizer, updates),
        _renamed(content, optimizer),
    )


def gather_state(optimizer: nn.Optimizer) -> Dict[str, Parameter]:
    """Returns the whole state of an optimizer with ``shard_state=True``, gathered from all ranks.

    Every rank must call it, and every rank gets the whole state. One of them may save it:
    `load_state` reads it into any number of ranks, and into an optimizer without shards.

    Args:
        optimizer: an `Adam` or `AdamW` of ours. Without shards its state is returned as it is.

    Returns:
        "moment1.<parameter>" and so on, "beta1_power", "beta2_power", "counted_power",
        "global_step" and "update_count"; copies.

    Example:
        >>> state = ms_adam.gather_state(optimizer)  # doctest: +SKIP
        >>> if get_rank() == 0:  # doctest: +SKIP
        ...     ms.save_checkpoint(
        ...         [{"name": name, "data": data} for name, data in state.items()], "adam.ckpt"
        ...     )
    """
    values = {name: slot.value() for name, slot in _slots(optimizer).items()}
    if optimizer.shares.ranks > 1:
        values = _from_all_ranks(values, _all_entries(optimizer), optimizer.shares)
    for name in sorted(("global_step", *optimizer.state.after)):
        values[name] = getattr(optimizer, name).asnumpy()
    return {
        name: Parameter(Tensor(np.array(value)), name, requires_grad=False)
        for name, value in values.items()
    }


def _from_all_ranks(mine, entries, shares):
    """Returns {name: array} of all entries, from each rank's rows, in one message."""
    lengths, placed = [0] * shares.ranks, []
    for entry in entries:
        for piece in shares.pieces[entry.place]:
            words = piece.size * entry.dtype.itemsize // 4
            placed.append((entry, piece, slice(lengths[piece.owner], lengths[piece.owner] + words)))
            lengths[piece.owner] += words
    collect = Collect(lengths, shares.rank)
    row = np.zeros(collect.length, np.int32)
    for entry, piece, place in placed:
        if piece.owner == shares.rank:
            row[place] = mine[entry.name].reshape(-1).view(np.int32)
    rows = collect(Tensor(row)).asnumpy()
    found = {entry.name: np.zeros(entry.shape, entry.dtype) for entry in entries}
    for entry, piece, place in placed:
        words = rows[collect.begins[piece.owner] :][place]
        end = piece.begin + piece.size
        found[entry.name].reshape(-1)[piece.begin : end] = words.view(entry.dtype)
    return found


def _check_share(class_name, share, optimizer):
    """Raises ValueError unless a share is that of this rank."""
    here = state.ShardLayout.of(optimizer.parameters, optimizer.shares.owned)
    here = here._replace(
        names=[
            optimizer.check.names[i]
            for i, own in enumerate(optimizer.shares.owned)
            if own is not None
        ]
    )
    if share != here:
        raise ValueError(
            f"For '{class_name}', the checkpoint is the share of another rank or of "
            f"another number of ranks, not of rank {optimizer.shares.rank} of "
            f"{optimizer.shares.ranks}: give those of all ranks in a list."
        )


def _own_rows(given, entries, owned):
    """Returns a whole state, cut down to the rows that this process keeps."""
    cut = dict(given)
    for entry in entries:
        value, own = given.get(entry.name), owned[entry.place]
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
        return forms.torch(checkpoint, names)
    content = forms.named(checkpoint, optimizer.formula, _prefix(optimizer))
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


def _with_weights(class_name, others, optimizer):
    """Returns a checkpoint's other entries and the weights that are missing there."""
    missing = {
        parameter.name: parameter
        for parameter in optimizer.parameters
        if parameter.name not in others
    }
    if missing:
        log.warning(
            f"For '{class_name}', the checkpoint to convert lacks the weights of "
            f"{len(missing)} of {len(optimizer.parameters)} parameters, the first of them "
            f"'{next(iter(missing))}'. They are written as the optimizer has them now."
        )
    return {**others, **missing}


def _check_target(class_name, source, target):
    """Returns the kind of file to write."""
    if not isinstance(target, (str, os.PathLike)):
        raise TypeError(
            f"For '{class_name}', 'target' must be a path, but got "
            f"{type(target).__name__}: {target!r}."
        )
    suffix = os.path.splitext(os.fspath(target))[1]
    if suffix not in _KINDS:
        raise ValueError(
            f"For '{class_name}', 'target' must end in {' or '.join(_KINDS)}, but is "
            f"{os.fspath(target)!r}."
        )
    for part in source if isinstance(source, (list, tuple)) else (source,):
        if (
            isinstance(part, (str, os.PathLike))
            and os.path.exists(part)
            and (os.path.exists(target) and os.path.samefile(part, target))
        ):
            raise ValueError(
                f"For '{class_name}', 'target' must be another file than 'source', "
                f"but both are {os.fspath(target)!r}."
            )
    return _KINDS[suffix]


def _savable(class_name, name, value):
    """Returns an entry in a form that `mindspore.save_checkpoint` accepts."""
    if isinstance(value, (Tensor, str)):
        return value
    try:
        return Tensor(forms.array(value, name))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"For '{class_name}', the entry '{name}' must be a Parameter, Tensor, "
            f"array or str to be saved, but is {type(value).__name__}: {value!r}."
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
        value = 0
        while left > 0:
            piece = file.read(min(left, _CHUNK))
            value = binascii.crc32(piece, value)
            left -= len(piece)
        end = file.read()
    if left < 0 or not end.startswith(_CRC_MARK):
        return None
    return value == int.from_bytes(end[len(_CRC_MARK) :], "big")


class _Slot:
    """One parameter's slice of a buffer of the optimizer; written when the buffer is."""

    def __init__(self, parameter, array, offset, shape):
        self.parameter, self.buffer, self.shape = parameter, array, tuple(shape)
        self.slice = slice(offset, offset + int(np.prod(shape)))

    def fill(self, value):
        self.buffer.reshape(-1)[self.slice] = value.astype(self.buffer.dtype).reshape(-1)

    def value(self):
        return self.buffer.reshape(-1)[self.slice].reshape(self.shape)


def _slots(optimizer):
    """Returns {entry name: slot} of the entries that this process keeps."""
    names, layout = optimizer.check.names, optimizer.state.layout
    slots = {}

    def add(prefix, name, parameter, array=None, offset=0, shape=None):
        array = np.array(parameter.asnumpy()) if array is None else array
        shape = parameter.shape if shape is None else shape
        slots[f"{prefix}.{name}"] = _Slot(parameter, array, offset, shape)

    for prefix, buffers in optimizer.state.moments.items():
        if layout is not None:
            of_dtype = {state.dtype_name(b.dtype): (b, np.array(b.asnumpy())) for b in buffers}
            for name, shape, dtype, offset in zip(*layout):
                add(prefix, name, *of_dtype[dtype], offset, shape)
        else:
            for name, buffer in zip(names, buffers):
                if buffer is not None:
                    add(prefix, name, buffer)
    for name, weight, parameter in zip(names, optimizer.state.weights, optimizer.parameters):
        if weight is not parameter:
            add("master_weight", name, weight)
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
        if value.shape != slot.shape:
            problems.append(f"{spelled(name)} has shape {value.shape}, must be {slot.shape}")
        elif str(value.dtype) not in _WIDENINGS[str(slot.buffer.dtype)]:
            problems.append(f"{spelled(name)} is {value.dtype}, must be {slot.buffer.dtype}")
    return problems


def _check_step(class_name, step):
    if step is None:
        return
    if isinstance(step, bool) or not isinstance(step, (int, np.integer)):
        raise TypeError(f"For '{class_name}', 'step' must be an int, but got {step!r}.")
    if not 0 <= step < 2**31:
        raise ValueError(f"For '{class_name}', 'step' must be in [0, 2^31), but got {step}.")


def _counts(class_name, steps, step, given):
    """Returns the update count and the global step that a checkpoint and the caller agree on."""
    possible, why = steps.updates, steps.why
    started = any(
        value.any() for name, value in given.items() if name.partition(".")[0] in state.MOMENTS
    )
    if possible == (0,) and started:
        possible, why = (), "it counts 0 steps, but its moments are not zero"
    if step is not None:
        if possible and step not in possible:
            shown = " or ".join(map(str, possible))
            raise ValueError(
                f"For '{class_name}', step={step} contradicts the checkpoint, after "
                f"which {shown} steps were made."
            )
        updates = int(step)
    elif steps.doubt:
        updates = possible[0]
        log.warning(
            f"For '{class_name}', the checkpoint counts differently in two places: "
            f"{steps.doubt}. Bias correction continues from {updates}, schedules from "
            f"{steps.global_step}. If it should continue from another count, load it with "
            f"step={' or step='.join(map(str, possible))}."
        )
    elif len(possible) == 1:
        updates = possible[0]
    else:
        raise ValueError(
            f"For '{class_name}', the checkpoint does not tell how many steps were "
            f"made: {why}. Say it with step=."
        )
    return updates, updates if steps.global_step is None else steps.global_step
