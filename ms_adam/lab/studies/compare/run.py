"""Carries out a comparison: the processes of all sides, the distances, and ``compare.json``."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ms_adam.lab.errors import ExperimentError, Interrupted
from ms_adam.lab.run.processes import work
from ms_adam.lab.run.results import results, write_json
from ms_adam.lab.run.study import Progress
from ms_adam.lab.studies.compare.config import Comparison, Pair
from ms_adam.lab.studies.compare.distances import LOSS, Distances, between
from ms_adam.lab.studies.compare.judge import PARTED, judge, limit_of
from ms_adam.lab.studies.compare.noise import Noise, of_both, sampled_steps
from ms_adam.lab.studies.compare.record import QUANTITIES, Record

_WORKER = "ms_adam.lab.studies.compare.sides"
_RECORDS = "records"


def compare(comparison: Comparison, out: Path, progress: Progress) -> dict[str, Any]:
    """Runs all sides and writes the results.

    Args:
        comparison: The config.
        out: The folder to write to; made if it is not there. It gets ``compare.json``;
            ``side<N>.npz``, the arrays of `record.SCALARS`; ``side<N>_floor.npz``,
            ``pair<N>_free.npz`` and ``pair<N>_replayed.npz``, the tables of `Distances`; and a log
            of each process. While it runs there is a folder ``records`` of at most ``limit_mb``,
            which is kept only if the config says so. An earlier comparison is replaced; other
            files stay.
        progress: Called while processes run.

    Returns:
        The content of ``compare.json``; see `evaluate`.

    Raises:
        ExperimentError: A side cannot run, or two sides are not the same training.
        Interrupted: The user pressed Ctrl-C.
    """
    out.mkdir(parents=True, exist_ok=True)
    _clear(out)
    try:
        _run_sides(comparison, out, progress)
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


def _run_sides(comparison: Comparison, out: Path, progress: Progress) -> None:
    """All first runs, then all second runs: those replay what the first ones recorded."""
    records = out / _RECORDS
    records.mkdir()
    steps = comparison.training.steps
    numbers = {name: number for number, name in enumerate(comparison.sides, start=1)}
    common = {
        "comparison": comparison.model_dump(mode="json"),
        "initial": str(records / "initial.npz"),
    }

    def run(name: str, what: str, job: dict, total: int) -> None:
        label = f"{name}, {what}"
        progress("compare", label, 0, total)
        log = out / f"side{numbers[name]}_{what.replace(' ', '_')}.log"
        events = work(_WORKER, f"'{name}' ({what})", {**common, "side": name, **job}, log)
        with contextlib.closing(events):
            for event in events:
                progress("compare", label, event["done"], total)
        progress("compare", label, total, total)

    for name, number in numbers.items():
        limit_mb = comparison.limit_mb / len(comparison.sides)
        job = {"record": str(records / f"side{number}"), "limit_mb": limit_mb}
        run(name, "first run", job, steps + len(sampled_steps(steps)))
    _refuse_other_trainings({name: _record(out, number) for name, number in numbers.items()})
    for name, number in numbers.items():
        replays = [
            {
                "record": str(records / f"side{numbers[pair.sides[0]]}"),
                "distances": str(out / f"pair{place}_replayed.npz"),
                "leave_out_noise": comparison.tolerance_of(pair).gradient > 0,
            }
            for place, pair in enumerate(comparison.all_pairs, start=1)
            if pair.sides[1] == name
        ]
        job = {
            "again": str(records / f"side{number}"),
            "floor": str(out / f"side{number}_floor.npz"),
            "replays": replays,
        }
        run(name, "second run", job, steps * (1 + len(replays)))


def evaluate(comparison: Comparison, out: Path) -> dict[str, Any]:
    """Makes the content of ``compare.json`` from the files of all processes.

    One entry of ``results``: ``title``, ``config``, ``parameters`` (names and shapes), ``sides``
    (facts, scalars of each step, weight decay of each parameter, non-finite counts, noise floor)
    and ``pairs`` (verdict, first parting, cause, the tensors with elements whose gradient is
    rounding noise, and the worst distance of each step).
    """
    sides, records, floors, noise = [], {}, {}, {}
    for number, (name, side) in enumerate(comparison.sides.items(), start=1):
        records[name] = record = _record(out, number)
        floors[name] = Distances.load(out / f"side{number}_floor.npz")
        noise[name] = Noise.load(out / _RECORDS / f"side{number}")
        np.savez(out / f"side{number}.npz", names=np.array(record.names), **record.scalars)
        sides.append(_side_entry(name, number, side.mode, record, floors[name]))
    pairs = [
        _pair_entry(comparison, pair, place, records, floors, noise, out)
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
    return results([entry], (record.facts["device_target"] for record in records.values()))


def _side_entry(name: str, number: int, mode: str, record: Record, floor: Distances) -> dict:
    scalars = record.scalars
    decays = scalars["weight_decay"]
    counts = scalars["non_finite"].sum(axis=0).astype(int).tolist()
    lost = int(np.count_nonzero(~np.isfinite(scalars["loss"])))
    return {
        "side": name,
        "mode": mode,
        **record.facts,
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
        "noise_floor": {q: float(floor.relative(q).max()) for q in floor.tables},
    }


def _range(table: np.ndarray) -> dict[str, list[float]]:
    """The least and the most over the parameters, step by step."""
    return {"least": table.min(axis=1).tolist(), "most": table.max(axis=1).tolist()}


def _pair_entry(
    comparison: Comparison,
    pair: Pair,
    place: int,
    records: dict,
    floors: dict,
    noise: dict,
    out: Path,
) -> dict:
    one, other = pair.sides
    tolerance = comparison.tolerance_of(pair)
    masks = of_both(noise[one], noise[other])
    # A tolerance of 0 asks for equal values, and noise can be equal.
    left_out = {quantity: masks for quantity in QUANTITIES if tolerance.of(quantity) > 0}
    free = between(records[one], records[other], left_out)
    free.save(out / f"pair{place}_free.npz")
    replayed = Distances.load(out / f"pair{place}_replayed.npz")
    both = floors[one], floors[other]
    verdict = judge((one, other), free, replayed, both, tolerance)
    return {
        "sides": [one, other],
        "must_hold": pair.must_hold,
        "tolerance": tolerance.model_dump(),
        **dataclasses.asdict(verdict),
        "gradient_is_rounding_noise": _noise_entries(masks, noise[one], noise[other], free),
        "limits": {q: limit_of(q, tolerance, both).tolist() for q in free.tables},
        "files": {"free": f"pair{place}_free.npz", "replayed": f"pair{place}_replayed.npz"},
        "free": _worst(free),
        "replayed": _worst(replayed),
    }


def _noise_entries(
    masks: list[np.ndarray], one: Noise, other: Noise, free: Distances
) -> list[dict[str, Any]]:
    """The tensors with elements whose gradient is rounding noise."""
    apart = free.relative("parameter").max(axis=0)
    return [
        {
            "parameter": name,
            "elements": int(np.count_nonzero(mask)),
            "of": mask.size,
            "gradient": max(float(side.size[i][mask].max()) for side in (one, other)),
            "nudged_by": max(float(side.change[i][mask].max()) for side in (one, other)),
            "parameter_apart": float(apart[i]),
        }
        for i, (name, mask) in enumerate(zip(free.names, masks))
        if mask.any()
    ]


def _worst(distances: Distances) -> dict[str, dict[str, list[float]]]:
    return {
        quantity: {metric: values.tolist() for metric, values in distances.worst(quantity).items()}
        for quantity in distances.tables
    }


def _record(out: Path, number: int) -> Record:
    return Record(out / _RECORDS / f"side{number}")


def _refuse_other_trainings(records: dict[str, Record]) -> None:
    (first, record), *others = records.items()
    for name, other in others:
        if other.names != record.names:
            differing = ", ".join(sorted(set(other.names) ^ set(record.names))[:5])
            raise ExperimentError(
                f"the sides '{first}' and '{name}' optimize other parameters: {differing}"
            )
        parted_batches = np.flatnonzero(other.batches != record.batches)
        if parted_batches.size:
            raise ExperimentError(
                f"the sides '{first}' and '{name}' were given other batches from step "
                f"{parted_batches[0] + 1} on: with one seed a factory must give one order of "
                "batches"
            )


def _without_folders(comparison: Comparison) -> dict[str, Any]:
    """The config without the folders of its files."""
    config = comparison.model_dump(mode="json", exclude_none=True)
    for side in config["sides"].values():
        side["optimizer"] = Path(side["optimizer"]).name
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
