"""Launches the trainings, and judges what came of them."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ms_adam.lab.claims import HELD, NOT_HELD, Verdict, short
from ms_adam.lab.errors import Interrupted
from ms_adam.lab.run.environment import environment
from ms_adam.lab.run.results import SCHEMA, plain, write_json
from ms_adam.lab.run.study import Progress
from ms_adam.lab.studies.ranks.config import Distributed
from ms_adam.lab.studies.ranks.launch import launch

MODULE = "ms_adam.lab.studies.ranks.training"
TOLERANCE = 1e-6  # to one process on the joined batch


def train(run: Distributed, out: Path, resume: bool, progress: Progress) -> dict[str, Any]:
    """Makes every training with one process and with each number of workers.

    Args:
        run: What to train.
        out: The folder to write to. Results in it are replaced.
        resume: Whether trainings go on from their newest checkpoints in `out`.
        progress: Is called while they go on.

    Returns:
        What ``results.json`` holds.

    Raises:
        RankError: A rank failed or was killed; the checkpoints stay.
        Interrupted: Ctrl-C; likewise.
    """
    found: dict[tuple[str, int], list[dict]] = {}
    for mode in run.modes:
        for workers in (1, *run.workers):
            folder = out / f"{mode}-{workers}"
            if not resume:
                shutil.rmtree(folder, ignore_errors=True)
            running = f"{mode}, {workers} worker{'s' if workers > 1 else ''}"
            progress(run.name, running, 0, 1)
            job = {"run": run.model_dump(mode="json"), "mode": mode, "resume": resume}
            try:
                with contextlib.closing(launch(workers, MODULE, job, folder)) as events:
                    for event in events:
                        progress(run.name, running, event["done"], event["total"])
            except KeyboardInterrupt:
                raise Interrupted(
                    f"stopped in {folder}; the same command with --resume goes on "
                    "from the newest checkpoints"
                ) from None
            found[mode, workers] = [
                json.loads((folder / f"found_{rank}.json").read_text(encoding="utf-8"))
                for rank in range(workers)
            ]
    entry = {
        "name": run.name,
        "title": run.title,
        "config": run.model_dump(mode="json"),
        "trainings": [row for key, ranks in found.items() for row in _rows(out, *key, ranks)],
        "messages": [
            {"workers": workers, **message}
            for (_, workers), ranks in found.items()
            for message in ranks[0]["messages"]
        ],
    }
    entry["verdicts"] = [verdict.as_dict() for verdict in judge(run, entry["trainings"])]
    content = plain(
        {"schema": SCHEMA, "environment": environment(_device(found)), "results": [entry]}
    )
    write_json(out / "results.json", content)
    return content


def _device(found: dict[tuple[str, int], list[dict]]) -> str:
    return ", ".join(sorted({rank["device_target"] for ranks in found.values() for rank in ranks}))


def _rows(out: Path, mode: str, workers: int, ranks: list[dict]) -> list[dict[str, Any]]:
    """One row for each training of a launch."""
    rows = []
    for name, first in ranks[0]["cases"].items():
        problem, optimizer, state = name.split("-")
        each = [rank["cases"][name] for rank in ranks]
        alone = out / f"{mode}-1" / f"{problem}-{optimizer}-whole.npz"
        rows.append(
            {
                "mode": mode,
                "workers": workers,
                "problem": problem,
                "optimizer": optimizer,
                "state": state,
                "backend": first["backend"],
                "parameters": sum(first["sizes"]),
                "sizes": first["sizes"],
                "digests": [rank["digest"] for rank in each],
                "state_bytes": [rank["state_bytes"] for rank in each],
                "undivided_bytes": first["undivided_bytes"],
                "step_ms": first["step_ms"],
                "resumed_after": first["resumed_after"],
                "from_one_process": _distance(out / f"{mode}-{workers}" / f"{name}.npz", alone),
            }
        )
    return rows


def _distance(path: Path, other: Path) -> float:
    """The largest difference of two elements of the parameters."""
    with np.load(path) as here, np.load(other) as there:
        # A difference that is not a number must not get lost in a maximum.
        return float(
            np.max(
                [
                    np.max(np.abs(here[name].astype(np.float64) - there[name]))
                    for name in there.files
                ]
            )
        )


def judge(run: Distributed, rows: list[dict]) -> list[Verdict]:
    """The claims about each mode and number of workers."""
    verdicts = []
    for mode in run.modes:
        for workers in run.workers:
            here = [row for row in rows if (row["mode"], row["workers"]) == (mode, workers)]
            where = f"{mode}, {workers} workers"
            verdicts += [
                _ranks_equal(where, here),
                _as_one(where, here),
                _shards_equal(where, here),
                _divided(where, workers, here),
            ]
    return verdicts


def _verdict(claim: str, held: bool, measured: str, limit: str, why: str) -> Verdict:
    return Verdict(claim, HELD if held else NOT_HELD, measured, limit, why)


def _ranks_equal(where: str, rows: list[dict]) -> Verdict:
    equal = sum(len(set(row["digests"])) == 1 for row in rows)
    return _verdict(
        f"{where}: all ranks end with the same parameters, bit for bit",
        equal == len(rows) > 0,
        f"{equal} of {len(rows)} trainings",
        "all",
        "every rank makes the same update from the same mean of gradients",
    )


def _as_one(where: str, rows: list[dict]) -> Verdict:
    found = [(row["from_one_process"], f"{row['problem']}, {row['optimizer']}") for row in rows]
    # What is not a number is the worst; no training at all is none that holds.
    distance, worst = max(
        found or [(np.nan, "no training")], key=lambda pair: np.nan_to_num(pair[0], nan=np.inf)
    )
    return _verdict(
        f"{where}: the parameters are those of one process on the joined batch",
        distance <= TOLERANCE,
        f"at most {short(distance)} apart ({worst})",
        f"at most {short(TOLERANCE)}",
        "sums over parts of a batch are rounded in another order",
    )


def _shards_equal(where: str, rows: list[dict]) -> Verdict:
    by_case: dict[tuple, dict[str, str]] = {}
    for row in rows:
        by_case.setdefault((row["problem"], row["optimizer"]), {})[row["state"]] = row["digests"][0]
    equal = sum(case["sharded"] == case["whole"] for case in by_case.values())
    return _verdict(
        f"{where}: sharded state gives the parameters of whole state, bit for bit",
        equal == len(by_case) > 0,
        f"{equal} of {len(by_case)} trainings",
        "all",
        "a row belongs to one rank as a whole, so its update is the same",
    )


def _divided(where: str, workers: int, rows: list[dict]) -> Verdict:
    """No rank has more than a perfect division and the largest part that is not divided."""
    shares, held = [], True
    for row in rows:
        if row["state"] == "sharded":
            whole = next(
                other["state_bytes"][0]
                for other in rows
                if other["state"] == "whole"
                and (other["problem"], other["optimizer"]) == (row["problem"], row["optimizer"])
            )
            largest = max(row["state_bytes"])
            shares.append((largest / whole, row["problem"]))
            held = (
                held
                and sum(row["state_bytes"]) == whole
                and largest <= whole / workers + row["undivided_bytes"]
            )
    words = "; ".join(dict.fromkeys(f"{problem}: {share:.1%}" for share, problem in shares))
    return _verdict(
        f"{where}: the ranks divide the state among them",
        held and bool(shares),
        f"largest share of a rank: {words or 'none'}",
        f"together the whole; each at most {1 / workers:.0%} and a row",
        "rows are not divided; without the fused kernel parameters are not",
    )
