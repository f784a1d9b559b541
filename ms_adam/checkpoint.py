"""Reads the state of an Adam into an optimizer of ours, or refuses it whole; puts shares together."""

from __future__ import annotations

import binascii
import os

import numpy as np
from mindspore import Parameter, Tensor

from ms_adam import checkpoint_forms as forms
from ms_adam import state
from ms_adam.compat import load_checkpoint
from ms_adam.sharding import Collect

_WIDENINGS = {"float32": ("float16", "bfloat16", "float32"), "float64": ("float32", "float64")}
_CRC_MARK = b"crc_num"  # MindSpore ends a file so under crc_check=True: this and 10 bytes
_CRC_LENGTH = len(_CRC_MARK) + 10
_CHUNK = 1 << 24


def load_state(optimizer, checkpoint, *, step=None, names=None):
    """Set the moments and the step count of an optimizer from a checkpoint.

    It takes the state of `nn.Adam` (``moment1.``, ``moment2.``, ``vhat.``) and of an optimizer of
    ours with any backend and layout; of `nn.AdamWeightDecay`, MindCV and MindFormers AdamW
    (``adam_m.``, ``adam_v.``); of `mindspore.mint.optim`, `mindspore.experimental.optim` and
    MindFormers FusedAdamW (``exp_avg.``, ``exp_avg_sq.``); and of `torch.optim.Adam` and `AdamW`.
    Parameters may stand in any order. Moments may be of a narrower dtype than ours. Entries of the
    network itself, and learning rates, are left alone: `mindspore.load_param_into_net` is for
    these.

    Args:
        optimizer: an `Adam` or `AdamW` of ours, of any backend and layout.
        checkpoint: a path (``.ckpt``, or ``.safetensors``); a dict of names to Parameters, Tensors
            or arrays; or the ``state_dict()`` of an optimizer of PyTorch, with arrays for tensors.
            With ``shard_state=True``, the whole state, of which each rank takes its share; or this
            rank's share, saved from as many ranks. A list is of the shares of all ranks, paths or
            dicts, for any optimizer.

    Keyword Args:
        step (int): the number of steps made, where the checkpoint does not tell it.
        names (Union[list[str], dict[int, str]]): for a state_dict of PyTorch, which numbers its
            parameters, the names that they have here: a list in its order, or a dict.

    Raises:
        TypeError: If `checkpoint` is neither a path nor a dict, or `names` is missing, not wanted
            or of the wrong type; if `step` is no int.
        ValueError: If a file is damaged (a changed bit is found for certain only in a file that was
            saved with ``crc_check=True``); if an entry is missing, too much, or of another shape or
            dtype: the message lists them all; if the number of steps is not told, by the checkpoint
            or by `step`, or told twice and differently.
        OSError: If a file cannot be read.

    After any of these errors the optimizer is unchanged.

    Example:
        >>> import ms_adam
        >>> from mindspore import nn
        >>> params = nn.Dense(4, 2).trainable_params()
        >>> old, new = nn.Adam(params), ms_adam.Adam(params, flat_state=True)
        >>> ms_adam.load_state(new, old.parameters_dict())
    """
    owner = type(optimizer).__name__
    _check_step(owner, step)
    whole = isinstance(checkpoint, (list, tuple))
    try:
        contents = [_content(part, optimizer.formula, names)
                    for part in (checkpoint if whole else [checkpoint])]
        content = forms.joined(contents) if whole else contents[0]
    except (TypeError, ValueError) as error:
        raise type(error)(f"For '{owner}', {error}") from error
    wanted = _wanted(optimizer)
    every = _all_entries(optimizer)
    given = _comparable(content.entries, every)
    if content.share is not None:
        _check_share(owner, content.share, optimizer)
    else:
        given = _own_rows(given, every, optimizer.shares.owned)
    elsewhere = {entry.name for entry in every} - set(wanted)
    problems = _differences(given, wanted, elsewhere, whole, content.spelled)
    if problems:
        raise ValueError(f"For '{owner}', the checkpoint does not fit:\n  " + "\n  ".join(problems))
    count = _count(owner, content.steps, step, given)

    for name, target in wanted.items():
        target.fill(given[name])
    on_host = state.on_host(optimizer)
    for target in {id(target.buffer): target for target in wanted.values()}.values():
        # once for each, which may hold many parameters
        _assign(target.parameter, target.buffer, id(target.parameter) in on_host)
    formula = optimizer.formula
    _assign(optimizer.global_step, [count])
    _assign(optimizer.beta1_power, formula.beta1**count)
    _assign(optimizer.beta2_power, formula.beta2**count)


def gather_state(optimizer):
    """The whole state of an optimizer with ``shard_state=True``, put together from all ranks.

    Every rank must call it, and gets all of it. One of them may save it: `load_state` reads it into
    any number of ranks, and into an optimizer without shards.

    Args:
        optimizer: an `Adam` or `AdamW` of ours. Without shards its state is returned as it is.

    Returns:
        dict[str, Parameter]: "moment1.<parameter>" and so on, "beta1_power", "beta2_power" and
        "global_step"; in memory of their own.

    Example:
        >>> state = ms_adam.gather_state(optimizer)  # doctest: +SKIP
        >>> if get_rank() == 0:                      # doctest: +SKIP
        ...     ms.save_checkpoint([{"name": name, "data": data} for name, data in state.items()],
        ...                        "adam.ckpt")
    """
    values = {name: target.value() for name, target in _wanted(optimizer).items()}
    if optimizer.shares.ranks > 1:
        values = _from_all_ranks(values, _all_entries(optimizer), optimizer.shares)
    values.update((name, getattr(optimizer, name).asnumpy())
                  for name in ("beta1_power", "beta2_power", "global_step"))
    return {name: Parameter(Tensor(np.array(value)), name, requires_grad=False)
            for name, value in values.items()}


def _from_all_ranks(mine, entries, shares):
    """{name: array} of all entries, from what each rank has of them, in one message."""
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
        words = rows[collect.begins[piece.owner]:][place]
        found[entry.name].reshape(-1)[piece.begin:piece.begin + piece.size] = words.view(entry.dtype)
    return found


def _check_share(owner, share, optimizer):
    """A rank may read its own share alone, as it saved it."""
    here = state.ShardLayout.of(optimizer.parameters, optimizer.shares.owned)
    here = here._replace(names=[optimizer.check.names[i] for i, own
                                in enumerate(optimizer.shares.owned) if own is not None])
    if share != here:
        raise ValueError(f"For '{owner}', the checkpoint is the share of another rank or of another "
                         f"number of ranks, not of rank {optimizer.shares.rank} of "
                         f"{optimizer.shares.ranks}: give those of all ranks in a list.")


def _own_rows(given, entries, owned):
    """Of a whole state the rows that this process keeps."""
    cut = dict(given)
    for entry in entries:
        value, own = given.get(entry.name), owned[entry.place]
        if value is not None and own is not None and value.shape == entry.shape:
            rows = state.shape_of_rows(entry.shape, own[1])
            cut[entry.name] = value.reshape(-1)[own[0]:sum(own)].reshape(rows)
    return cut


def _all_entries(optimizer):
    return state.entries(optimizer.check.names, optimizer.parameters, optimizer.formula.amsgrad,
                         hasattr(optimizer, "master_weights"))


def _content(checkpoint, formula, names):
    if isinstance(checkpoint, (str, os.PathLike)):
        checkpoint = read(checkpoint)
    if not isinstance(checkpoint, dict):
        raise TypeError("'checkpoint' must be a path, a dict, or a list of such, but got "
                        f"{type(checkpoint).__name__}.")
    if forms.is_torch(checkpoint):
        return forms.torch(checkpoint, names)
    if names is not None:
        raise TypeError("'names' is for a state_dict of torch, but the checkpoint has names.")
    return forms.named(checkpoint, formula)


def read(path):
    """Reads a checkpoint file of MindSpore.

    Args:
        path: ends in ``.safetensors`` where it is of that format.

    Returns:
        {name: Parameter}.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged, or of a kind that this release of MindSpore cannot read; the
            message names it.
    """
    path = os.fspath(path)
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
        raise ValueError(f"{path}: cannot be read as a checkpoint, it may be cut short or damaged: "
                         f"{reason}") from error


def crc(path):
    """Whether a file has the CRC32 that it ends with; None if it ends without one.

    ``mindspore.save_checkpoint(..., crc_check=True)`` writes it. Read here in pieces, and without
    the message about permissions that `load_checkpoint` prints for a changed file.
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
    return value == int.from_bytes(end[len(_CRC_MARK):], "big")


class _Target:
    """One parameter's slice of a buffer of the optimizer; written when the buffer is."""

    def __init__(self, parameter, array, offset, shape):
        self.parameter, self.buffer, self.shape = parameter, array, tuple(shape)
        self.slice = slice(offset, offset + int(np.prod(shape)))

    def fill(self, value):
        self.buffer.reshape(-1)[self.slice] = value.astype(self.buffer.dtype).reshape(-1)

    def value(self):
        return self.buffer.reshape(-1)[self.slice].reshape(self.shape)


def _assign(parameter, value, host=False):
    state.write(parameter, value, host)


def _wanted(optimizer):
    """{name of the state entry: where it goes} of an optimizer."""
    wanted = {}
    for prefix in forms.MOMENTS:
        buffers = getattr(optimizer, prefix, None)
        if buffers is None:
            continue
        arrays = [np.array(buffer.asnumpy()) for buffer in buffers]
        if hasattr(optimizer, "layout"):
            by_dtype = {str(buffer.dtype).lower(): (buffer, array)
                        for buffer, array in zip(buffers, arrays)}
            for name, shape, dtype, offset in zip(*optimizer.layout):
                wanted[f"{prefix}.{name}"] = _Target(*by_dtype[dtype], offset, shape)
        else:
            for buffer, array in zip(buffers, arrays):
                wanted[_own_name(buffer, prefix)] = _Target(buffer, array, 0, buffer.shape)
    for weight, parameter in zip(getattr(optimizer, "master_weights", ()), optimizer.parameters):
        if weight is not parameter:
            wanted[_own_name(weight, "master_weight")] = _Target(
                weight, np.array(weight.asnumpy()), 0, weight.shape)
    return wanted


def _own_name(buffer, prefix):
    """The name that a buffer was given; a Cell that owns the optimizer put its own before it."""
    return buffer.name[buffer.name.index(f"{prefix}."):]


def _comparable(entries, every):
    """The entries, but for two differences that mean nothing."""
    given = dict(entries)
    for entry in every:
        if 0 in entry.shape:  # files of MindSpore lack empty tensors
            given.setdefault(entry.name, np.zeros(entry.shape, entry.dtype))
    # mindspore.experimental keeps maxima without AMSGrad too, and never writes them.
    if not any(entry.name.startswith("vhat.") for entry in every):
        given = {name: value for name, value in given.items()
                 if not name.startswith("vhat.") or value.any()}
    return given


def _differences(given, wanted, elsewhere, whole, spelled):
    """What keeps the entries from being taken.

    Args:
        given: the entries of the checkpoint.
        wanted: those that this process keeps.
        elsewhere: those that other ranks keep.
        whole: whether these too must be there.
        spelled: how the checkpoint spells a name.
    """
    needed = set(wanted) | elsewhere if whole else set(wanted)
    problems = [f"missing: {spelled(name)}" for name in sorted(needed - set(given))]
    problems += [f"not expected: {spelled(name)}"
                 for name in sorted(set(given) - set(wanted) - elsewhere)]
    for name in sorted(set(given) & set(wanted)):
        value, target = given[name], wanted[name]
        if value.shape != target.shape:
            problems.append(f"{spelled(name)} has shape {value.shape}, must be {target.shape}")
        elif str(value.dtype) not in _WIDENINGS[str(target.buffer.dtype)]:
            problems.append(f"{spelled(name)} is {value.dtype}, must be {target.buffer.dtype}")
    return problems


def _check_step(owner, step):
    if step is None:
        return
    if isinstance(step, bool) or not isinstance(step, (int, np.integer)):
        raise TypeError(f"For '{owner}', 'step' must be an int, but got {step!r}.")
    if not 0 <= step < 2**31:
        raise ValueError(f"For '{owner}', 'step' must be in [0, 2^31), but got {step}.")


def _count(owner, told, step, given):
    """The number of steps, from the checkpoint and the caller, who must not contradict it."""
    possible, why = told
    started = any(value.any() for name, value in given.items()
                  if name.partition(".")[0] in forms.MOMENTS)
    if possible == (0,) and started:
        possible, why = (), "it counts 0 steps, but its moments are not zero"
    if step is None and len(possible) == 1:
        return possible[0]
    if step is None:
        raise ValueError(f"For '{owner}', the checkpoint does not tell how many steps were made: "
                         f"{why}. Say it with step=.")
    if possible and step not in possible:
        shown = " or ".join(map(str, possible))
        raise ValueError(f"For '{owner}', step={step} contradicts the checkpoint, after which "
                         f"{shown} steps were made.")
    return int(step)
