"""Reads a dump of msProbe as the record of a side: gradients and weights, step by step.

The layout is that of mindstudio-probe 26.2.0 (its core/dump/service.py and core/dump/data_dump;
documented under "dump" in the MindStudio-Probe repository), for the task "tensor" of MindSpore:

    <dump_path>/step<n>/rank<r>/      proc<pid> in place of rank<r> where nothing is distributed
        dump.json                     level L0 or mix
            data: {"Cell.<path>.<Class>.forward.<call>":
                       {"parameters": {<name>: {"dtype", "shape", "data_name", ...}}, ...},
                   "Cell.<path>.<Class>.parameters_grad.<call>": {<name>: [{...}]}}
        debug.json                    level debug: save(tensor, "<quantity>.<name>")
            data: {"<quantity>.<name>.<count>.debug": {"dtype", "data_name", ...}}
        dump_tensor_data/<data_name>  .npy; bfloat16 as float32

Before 26.0 the key of a gradient has no <call>; both are read. Each folder holds the state before
its step and the gradient of its step, so moments have to be saved before the optimizer is called.
The weights after the last step are those of one more folder.

The task "statistics", which is msProbe's default, writes no <data_name> but Max, Min, Mean and
Norm of each tensor, or an md5; in graph mode also a statistic.csv beside dump.json. It is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ms_adam.lab.errors import UserError
from ms_adam.lab.measure import UNIT
from ms_adam.lab.studies.compare.recipe import Rounding
from ms_adam.lab.studies.compare.record import QUANTITIES, Record, RecordWriter

_MODULE = re.compile(
    r"(?:Cell|Module)\.(?P<path>.*?)\.?[^.]+\.(?P<kind>forward\.\d+|parameters_grad(\.\d+)?)"
)
_SAVED = re.compile(r"(?P<quantity>[a-z0-9_]+)\.(?P<name>.+)\.\d+\.debug")
# A key of JSON, or a column of a CSV file.
_STATISTIC = re.compile(r'(?:^|[",])(Max|Min|Mean|Avg|Norm|L2Norm|md5)(?: Value)?(?=[",\s]|$)')
_QUANTITIES = {  # by the names under which optimizers keep them, see `targets.STATE`
    **dict(zip(QUANTITIES, QUANTITIES)),
    "exp_avg": "moment1",
    "adam_m": "moment1",
    "exp_avg_sq": "moment2",
    "adam_v": "moment2",
    "max_exp_avg_sq": "vhat",
}

Found = dict[str, dict[str, tuple[np.ndarray, str]]]  # {quantity: {name: (array, dtype)}}


def write_record(
    dump: Path, folder: Path, like: Record, loss_scale: float, limit_mb: float
) -> None:
    """Writes the record of a dump.

    Args:
        dump: The dump_path of msProbe.
        folder: Of the record, which is made.
        like: The record of a side of the same training; parameters are found by its names, also
            where the dump's have more before them, since it saw the network within other Cells.
        loss_scale: The factor that the dump's gradients carry.
        limit_mb: The largest size of the record.

    Raises:
        UserError: There are only statistics, there are too few steps, steps are missing between
            others, or a parameter or its gradient is missing.
    """
    _refuse_statistics(dump)
    paths = {int(path.name[4:]): path for path in dump.glob("step*") if path.name[4:].isdigit()}
    numbers = sorted(paths)[: like.steps + 1]
    if len(numbers) <= like.steps:
        raise UserError(
            f"{dump} has {len(numbers)} folders step<n>; {like.steps} steps need one more, for the "
            "weights after the last of them"
        )
    if numbers[-1] - numbers[0] != like.steps:
        raise UserError(
            f"{dump} lacks some of the steps {numbers[0]} to {numbers[-1]}; every step is needed"
        )
    steps = [paths[number] for number in numbers]
    first = _of_names(_read(steps[0]), like, steps[0], ("parameter", "gradient"))
    quantities = [quantity for quantity in QUANTITIES if quantity in first]
    dtypes = {q: [dtype for _, dtype in first[q]] for q in quantities}
    initial = {q: [array for array, _ in first[q]] for q in quantities if q != "gradient"}
    writer = RecordWriter(folder, like.names, dtypes, like.steps, initial, limit_mb)
    writer.scalars["loss_scale"][:] = loss_scale
    for number, path in enumerate(steps):
        found = _of_names(_read(path), like, path)
        for quantity in quantities:
            # A folder holds the state that the step before it left.
            step = number if quantity == "gradient" else number - 1
            if step not in range(like.steps):
                continue
            if quantity not in found:
                raise UserError(f"{path} has no {quantity}, but {steps[0].name} has")
            writer.write(step, quantity, [array for array, _ in found[quantity]])
    writer.close(
        optimizer=f"msProbe dump {dump.name}",
        backend=None,
        device_target=None,
        recipe=None,
        ranks=1,
        apart=None,
        updates=0,
        rounds=Rounding(max(dtypes.get("moment2", ["float32"]), key=UNIT.__getitem__)),
    )


def _refuse_statistics(dump: Path) -> None:
    """Raises UserError if a dump has no tensor but statistics."""
    if next(dump.rglob("*.npy"), None) is None:
        for path in sorted(path for path in dump.rglob("*") if path.suffix in (".json", ".csv")):
            with open(path, encoding="utf-8") as text:
                found = _STATISTIC.findall(next(text, "") if path.suffix == ".csv" else text.read())
            if found:
                raise _only_statistics(path, found)


def _only_statistics(path: Path, names: Iterable[str]) -> UserError:
    there = ", ".join(dict.fromkeys(names)) or "no tensor"
    return UserError(
        f"{path} has statistics only ({there}). Tensors with equal statistics can differ in every "
        "element, and each element has a bound of its own here, so they cannot be judged. Dump "
        'again with "task": "tensor" in the config.json of msProbe, which writes the elements as '
        '.npy files; its default is "statistics"'
    )


def _of_names(
    found: Found, like: Record, where: Path, needed: Iterable[str] = ("parameter",)
) -> dict[str, list[tuple[np.ndarray, str]]]:
    """The tensors in the order of a record; without quantities that not all parameters have."""
    ordered = {}
    for quantity, tensors in found.items():
        of = [_named(tensors, name) for name in like.names]
        missing = [name for name, tensor in zip(like.names, of) if tensor is None]
        if not missing:
            ordered[quantity] = of
        elif quantity in ("gradient", "parameter"):
            raise UserError(
                f"{where} has no {quantity} of {', '.join(missing[:5])}; it has those of "
                f"{', '.join(list(tensors)[:5])}"
            )
    for quantity in needed:
        if quantity not in ordered:
            raise UserError(f"{where} holds no {quantity} (task tensor; level L0, mix or debug)")
    for quantity, tensors in ordered.items():
        for name, shape, (array, _) in zip(like.names, like.shapes, tensors):
            if array.shape != shape:
                raise UserError(
                    f"{where}: the {quantity} of {name} has shape {array.shape}, not {shape}"
                )
    return ordered


def _named(tensors: dict, name: str):
    """The tensor of a name, or of one name that ends with it."""
    ends = [key for key in tensors if f".{key}".endswith(f".{name}")]
    if len(ends) > 1 and name not in ends:
        raise UserError(f"the dump has several tensors whose names end with {name}: {ends[:3]}")
    return tensors[name if name in ends else ends[0]] if ends else None


def _read(step: Path) -> Found:
    """All gradients, parameters and moments of a step."""
    folders = sorted(path.parent for path in step.glob("*/d*.json"))
    if not folders:
        raise UserError(f"{step} has no rank<r>/dump.json or debug.json")
    found: Found = {}
    for path in sorted(folders[0].glob("d*.json")):
        if path.name not in ("dump.json", "debug.json"):
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        for quantity, name, entry in _entries(content["data"]):
            tensors = found.setdefault(quantity, {})
            if name in tensors and quantity == "gradient":
                raise UserError(f"{path}: several gradients of {name} in one step")
            if name not in tensors:  # a module that is called again has the same parameters
                tensors[name] = _load(path, entry)
    return found


def _entries(data: dict[str, Any]) -> Iterator[tuple[str, str, dict]]:
    """Yields quantity, parameter and description of a tensor."""
    for key, entry in data.items():
        module, saved = _MODULE.fullmatch(key), _SAVED.fullmatch(key)
        if module is not None:
            quantity = "parameter" if module["kind"].startswith("forward") else "gradient"
            tensors = entry.get("parameters") or {} if quantity == "parameter" else entry
            for name, tensor in tensors.items():
                path = f"{module['path']}.{name}".lstrip(".")
                yield quantity, path, tensor[0] if isinstance(tensor, list) else tensor
        elif saved is not None and saved["quantity"] in _QUANTITIES:
            yield _QUANTITIES[saved["quantity"]], saved["name"], entry


def _load(path: Path, entry: dict) -> tuple[np.ndarray, str]:
    """A tensor and its dtype."""
    name = entry.get("data_name")
    if name is None:
        raise _only_statistics(path, _STATISTIC.findall(json.dumps(entry)))
    if not name.endswith(".npy"):
        raise UserError(f"{path}: {name} is not .npy; only dumps of MindSpore can be read")
    dtype = str(entry["dtype"]).rsplit(".", maxsplit=1)[-1].lower()
    if dtype not in UNIT:
        raise UserError(f"{path}: {name} is {entry['dtype']}, not a float")
    return np.load(path.parent / "dump_tensor_data" / name), dtype
