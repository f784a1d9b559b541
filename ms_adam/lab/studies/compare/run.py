"""Carries out a comparison: the processes of all sides, the checks, and ``compare.json``."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from ms_adam.lab.errors import ExperimentError, Interrupted
from ms_adam.lab.measure import rounding
from ms_adam.lab.run.launch import RankError, launch
from ms_adam.lab.run.processes import work
from ms_adam.lab.run.results import results, write_json
from ms_adam.lab.run.study import Progress
from ms_adam.lab.studies.compare.checks import BOUND, DIFFERENCE, Checks, check_updates
from ms_adam.lab.studies.compare.config import Comparison, Pair
from ms_adam.lab.studies.compare.distances import Distances, between
from ms_adam.lab.studies.compare.judge import PARTED, judge
from ms_adam.lab.studies.compare.msprobe import write_record
from ms_adam.lab.studies.compare.record import LOSS, Record

_WORKER = "ms_adam.lab.studies.compare.sides"
_RECORDS = "records"


def compare(
    comparison: Comparison, out: Path, progress: Progress, run: Callable = work
) -> dict[str, Any]:
    """Runs all sides and writes the results.

    Args:
        comparison: The config.
        out: The folder to write to; made if it is not there. It gets ``compare.json``;
            ``side<N>.npz``, the arrays of `record.SCALARS`; ``pair<N>_free.npz``, the tables of
            `Distances`; ``pair<N>_side<M>.npz``, those of `Checks`; and a log of each process, of
            ranks a folder of logs.
            While it runs there is a folder ``records`` of at most ``limit_mb``, which is kept only
            if the config says so. An earlier comparison is replaced; other files stay.
        progress: Called while processes run.
        run: Runs a worker, as `processes.work`.

    Returns:
        The content of ``compare.json``; see `evaluate`.

    Raises:
        ExperimentError: A side cannot run, or two sides are not the same training.
        UserError: A dump cannot be read.
        Interrupted: The user pressed Ctrl-C.
    """
    out.mkdir(parents=True, exist_ok=True)
    _clear(out)
    try:
        _run_sides(comparison, out, progress, run)
        content = evaluate(comparison, out)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; the logs of what ran are in {out}") from None
    finally:
        if not comparison.keep_records:
            shutil.rmtree(out / _RECORDS, ignore_errors=True)
    write_json(out / "compare.json", content)
    return content


def parted(content: dict[str, Any]) -> list[dict]:
    """The pairs that must hold and do not."""
    pairs = (pair for entry in content["results"] for pair in entry["pairs"])
    return [pair for pair in pairs if pair["must_hold"] and pair["status"] == PARTED]


def _run_sides(comparison: Comparison, out: Path, progress: Progress, run: Callable) -> None:
    """Writes all records; then the first sides of pairs judge gradients."""
    records = out / _RECORDS
    records.mkdir()
    steps = comparison.training.steps
    numbers = _numbers(comparison)
    common = {
        "comparison": comparison.model_dump(mode="json"),
        "initial": str(records / "initial.npz"),
    }

    def start(name: str, what: str, job: dict, total: int) -> None:
        label = f"{name}, {what}"
        progress("compare", label, 0, total)
        log, side = out / f"side{numbers[name]}_{what}", comparison.sides[name]
        job = {**common, "side": name, **job}
        if side.ranks > 1:
            workers = side.ranks if "record" in job else 1
            job.update(mode=side.mode, context=side.context)
            events = launch(workers, _WORKER, job, log)
        else:
            events = run(_WORKER, f"'{name}' ({what})", job, log.with_suffix(".log"))
        try:
            with contextlib.closing(events):
                for event in events:
                    progress("compare", label, event["done"], total)
        except RankError as error:
            raise ExperimentError(f"side '{name}' ({what}): {error}") from None
        progress("compare", label, total, total)

    limit_mb = comparison.limit_mb / (len(comparison.sides) + 1)  # and the gradients of a judge
    for name, number in numbers.items():
        if comparison.sides[name].dump is None:
            job = {"record": str(records / f"side{number}"), "limit_mb": limit_mb}
            start(name, "training", job, steps)
    first = next(name for name, side in comparison.sides.items() if side.dump is None)
    like = _record(out, numbers[first])
    for name, number in numbers.items():
        side = comparison.sides[name]
        if side.dump is not None:
            folder = records / f"side{number}"
            write_record(side.dump, folder, like, side.loss_scale or 1.0, limit_mb)
    found = {name: _record(out, number) for name, number in numbers.items()}
    for first in dict.fromkeys(pair.sides[0] for pair in comparison.all_pairs):
        others = [pair.sides[1] for pair in comparison.all_pairs if pair.sides[0] == first]
        judged = []
        for name in dict.fromkeys([first, *others]):
            _refuse_other_trainings(first, found[first], name, found[name])
            known = _standard(first, name, found) is not None
            judged.append(
                {
                    "record": str(records / f"side{numbers[name]}"),
                    "checks": str(_checks_file(out, numbers, first, name)),
                    "follow": not known and name != first,
                }
            )
        job = {"own": str(records / f"side{numbers[first]}"), "judged": judged}
        start(first, "judging", job, 2 * steps * len(judged))


def _numbers(comparison: Comparison) -> dict[str, int]:
    return {name: number for number, name in enumerate(comparison.sides, start=1)}


def _checks_file(out: Path, numbers: dict[str, int], first: str, name: str) -> Path:
    return out / _RECORDS / f"side{numbers[first]}_of_side{numbers[name]}.npz"


def _standard(one: str, other: str, records: dict[str, Record]) -> Optional[str]:
    """The side whose formula updates are held to; None if there is none, or no bound."""
    if any(records[name].facts["rounds"] is None for name in (one, other)):
        return None
    return next((name for name in (one, other) if records[name].facts["recipe"]), None)


def evaluate(comparison: Comparison, out: Path) -> dict[str, Any]:
    """Makes the content of ``compare.json`` from the files of all processes.

    One entry of ``results``: ``title``, ``config``, ``parameters`` (names and shapes), ``sides``
    (facts, scalars of each step, weight decay of each parameter, non-finite counts) and ``pairs``
    (verdict, first parting, cause, and in each step the worst distance, the difference nearest to
    its bound and that bound).
    """
    sides, records = [], {}
    for name, number in _numbers(comparison).items():
        records[name] = record = _record(out, number)
        np.savez(out / f"side{number}.npz", names=np.array(record.names), **record.scalars)
        sides.append(_side_entry(name, number, comparison.sides[name].mode, record))
    pairs = [
        _pair_entry(comparison, pair, place, records, out)
        for place, pair in enumerate(comparison.all_pairs, start=1)
    ]
    first = next(iter(records.values()))
    entry = {
        "title": comparison.title,
        "config": _without_folders(comparison),
        "steps": comparison.training.steps,
        "parameters": [
            {"name": name, "shape": shape} for name, shape in zip(first.names, first.shapes)
        ],
        "sides": sides,
        "pairs": pairs,
    }
    devices = (record.facts["device_target"] for record in records.values())
    return results([entry], filter(None, devices))


def _side_entry(name: str, number: int, mode: Optional[str], record: Record) -> dict:
    scalars = record.scalars
    decays = scalars["weight_decay"]
    counts = scalars["non_finite"].sum(axis=0).astype(int).tolist()
    lost = int(np.count_nonzero(~np.isfinite(scalars[LOSS]))) if record.has_losses else 0
    return {
        "side": name,
        "mode": mode or "dump",
        **{key: record.facts[key] for key in ("ranks", "backend", "device_target")},
        "optimizer": Path(record.facts["optimizer"]).name,
        "file": f"side{number}.npz",
        "dtypes": {q: sorted(set(kinds)) for q, kinds in record.dtypes.items()},
        "loss": scalars["loss"].tolist(),
        "gradient_norm": np.linalg.norm(scalars["gradient_norm"], axis=1).tolist(),
        "learning_rate": _range(scalars["learning_rate"]),
        "c1": scalars["c1"].tolist(),
        "c2": scalars["c2"].tolist(),
        "weight_decay": [
            {"parameter": parameter, "least": float(decay.min()), "most": float(decay.max())}
            for parameter, decay in zip(record.names, decays.T)
        ],
        "non_finite": {LOSS: lost, **dict(zip(record.quantities, counts))},
    }


def _range(table: np.ndarray) -> dict[str, list[float]]:
    """The least and the most over the parameters, step by step."""
    return {"least": table.min(axis=1).tolist(), "most": table.max(axis=1).tolist()}


def _pair_entry(
    comparison: Comparison, pair: Pair, place: int, records: dict[str, Record], out: Path
) -> dict:
    first = pair.sides[0]
    numbers, standard = _numbers(comparison), _standard(*pair.sides, records)
    checks = {}
    for name in pair.sides:
        found = Checks.load(_checks_file(out, numbers, first, name))
        if standard is not None:
            found = found.joined(check_updates(records[name], records[standard]))
        checks[name] = found
        found.save(out / f"pair{place}_side{numbers[name]}.npz")
    one, other = (records[name] for name in pair.sides)
    free = between(one, other)
    free.save(out / f"pair{place}_free.npz")
    tolerance = comparison.tolerance_of(pair)
    batches = (one.batches != other.batches) & (one.batches != 0) & (other.batches != 0)
    other_batch = int(np.argmax(batches)) + 1 if batches.any() else None
    apart = {name: records[name].facts["apart"] for name in pair.sides}
    verdict = judge(checks, free, tolerance, standard, other_batch, apart)
    return {
        "sides": list(pair.sides),
        "must_hold": pair.must_hold,
        "tolerance": tolerance.model_dump(),
        "formula_of": standard,
        **dataclasses.asdict(verdict),
        "files": {
            "free": f"pair{place}_free.npz",
            "checks": [f"pair{place}_side{numbers[name]}.npz" for name in pair.sides],
        },
        "free": _worst(free),
        "checks": {name: _nearest(found) for name, found in checks.items()},
    }


def _nearest(found: Checks) -> dict[str, dict[str, list[float]]]:
    """Of each step the difference of the tensor that comes nearest to its bound, and that bound."""
    nearest = {}
    for quantity, table in found.tables.items():
        tensor = found.shares(quantity).argmax(axis=1)
        at = table[:, np.arange(len(tensor)), tensor]
        nearest[quantity] = {"difference": at[DIFFERENCE].tolist(), "bound": at[BOUND].tolist()}
    return nearest


def _worst(distances: Distances) -> dict[str, dict[str, list[float]]]:
    return {
        quantity: {metric: values.tolist() for metric, values in distances.worst(quantity).items()}
        for quantity in distances.tables
    }


def _record(out: Path, number: int) -> Record:
    return Record(out / _RECORDS / f"side{number}")


def _refuse_other_trainings(first: str, record: Record, name: str, other: Record) -> None:
    where = f"the sides '{first}' and '{name}'"
    if other.names != record.names:
        differing = ", ".join(sorted(set(other.names) ^ set(record.names))[:5])
        raise ExperimentError(f"{where} optimize other parameters: {differing}")
    kinds = zip(record.dtypes["parameter"], other.dtypes["parameter"])
    pairs = zip(record.names, record.before(0), other.before(0), kinds)
    for parameter, one, start, dtypes in pairs:
        # float16 is coarser than bfloat16 below 2^-17, and finer above it.
        stored = np.maximum(*map(rounding, (one, start), dtypes))
        if np.any(np.abs(one - start) > stored):
            raise ExperimentError(f"{where} start from other weights, in {parameter}")


def _without_folders(comparison: Comparison) -> dict[str, Any]:
    """The config without the folders of its files."""
    config = comparison.model_dump(mode="json", exclude_none=True)
    for side in config["sides"].values():
        for key in {"optimizer", "dump"} & set(side):
            side[key] = Path(side[key]).name
    if comparison.factory is not None:
        config["factory"] = Path(comparison.factory).name
    elif comparison.problem.idx_directory is not None:
        config["problem"]["idx_directory"] = comparison.problem.idx_directory.name
    return config


def _clear(out: Path) -> None:
    shutil.rmtree(out / _RECORDS, ignore_errors=True)
    files = "compare.json", "index.html", "side[0-9]*.npz", "side[0-9]*.log", "pair[0-9]*.npz"
    for path in [path for pattern in files for path in out.glob(pattern)]:
        path.unlink()
    for path in [*out.glob("side[0-9]*_training"), *out.glob("side[0-9]*_judging")]:
        shutil.rmtree(path)  # of ranks
