"""Launches data-parallel trainings, and judges their results."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_adam.lab.claims import Claim, Measured, Verdict, judge, short
from ms_adam.lab.errors import Interrupted
from ms_adam.lab.run.config import refuse_equal_names
from ms_adam.lab.run.results import results, write_json
from ms_adam.lab.run.study import Progress, Session, Study
from ms_adam.lab.studies.ranks.config import RanksConfig
from ms_adam.lab.studies.ranks.launch import launch

MODULE = "ms_adam.lab.studies.ranks.training"
TOLERANCE = 1e-6  # to one process on the joined batch


def run(configs: Sequence[RanksConfig], session: Session) -> dict[str, Any]:
    """Makes every training with one process and with each number of workers.

    Args:
        configs: The trainings. Several configs write to folders of their names.
        session: Of its options, ``resume`` continues from the newest checkpoints.

    Returns:
        The content of ``results.json``.

    Raises:
        ConfigError: Two configs have one name.
        RankError: A rank failed or was killed; the checkpoints stay.
        Interrupted: The user pressed Ctrl-C; the checkpoints stay.
    """
    refuse_equal_names(configs)
    entries, targets = [], set()
    for config in configs:
        out = session.out if len(configs) == 1 else session.out / config.name
        found = _launches(config, out, session.options.get("resume", False), session.progress)
        targets |= {rank["device_target"] for ranks in found.values() for rank in ranks}
        trainings = [row for key, ranks in found.items() for row in _rows(out, *key, ranks)]
        entries.append(
            {
                "name": config.name,
                "title": config.title,
                "config": config.model_dump(mode="json"),
                "trainings": trainings,
                "messages": [
                    {"workers": workers, **message}
                    for (_, workers), ranks in found.items()
                    for message in ranks[0]["messages"]
                ],
                "verdicts": [verdict.as_dict() for verdict in verdicts(config, trainings)],
            }
        )
    content = results(entries, targets)
    write_json(session.out / "results.json", content)
    return content


def _launches(
    config: RanksConfig, out: Path, resume: bool, progress: Progress
) -> dict[tuple[str, int], list[dict]]:
    """Returns the results of each rank by mode and number of workers."""
    found = {}
    for mode in config.modes:
        for workers in (1, *config.workers):
            folder = out / f"{mode}-{workers}"
            if not resume:
                shutil.rmtree(folder, ignore_errors=True)
            running = f"{mode}, {workers} worker{'s' if workers > 1 else ''}"
            progress(config.name, running, 0, 1)
            job = {"run": config.model_dump(mode="json"), "mode": mode, "resume": resume}
            try:
                with contextlib.closing(launch(workers, MODULE, job, folder)) as events:
                    for event in events:
                        progress(config.name, running, event["done"], event["total"])
            except KeyboardInterrupt:
                raise Interrupted(
                    f"stopped in {folder}; the same command with --resume goes on "
                    "from the newest checkpoints"
                ) from None
            found[mode, workers] = [
                json.loads((folder / f"found_{rank}.json").read_text(encoding="utf-8"))
                for rank in range(workers)
            ]
    return found


# The values of a training that are equal on all ranks.
_OF_ALL_RANKS = ("backend", "sizes", "undivided_bytes", "step_ms", "resumed_after")


def _rows(out: Path, mode: str, workers: int, ranks: list[dict]) -> list[dict[str, Any]]:
    """Returns one row for each training of a launch."""
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
                **{key: first[key] for key in _OF_ALL_RANKS},
                "parameters": sum(first["sizes"]),
                "digests": [rank["digest"] for rank in each],
                "state_bytes": [rank["state_bytes"] for rank in each],
                "from_one_process": _distance(out / f"{mode}-{workers}" / f"{name}.npz", alone),
            }
        )
    return rows


def _distance(path: Path, other: Path) -> float:
    """Returns the largest difference of two elements of the parameters."""
    with np.load(path) as here, np.load(other) as there:
        largest = [np.max(np.abs(here[name].astype(np.float64) - there[name])) for name in there]
    return float(np.max(largest))  # unlike max, np.max keeps NaN


def verdicts(config: RanksConfig, rows: list[dict]) -> list[Verdict]:
    """Judges the claims about each mode and number of workers."""
    found = []
    for mode in config.modes:
        for workers in config.workers:
            here = [row for row in rows if (row["mode"], row["workers"]) == (mode, workers)]
            claims = [
                Claim(f"{mode}, {workers} workers: {claim}", why, "", measure)
                for claim, why, measure in _CLAIMS
            ]
            found += judge(claims, here)
    return found


def _ranks_equal(rows: list[dict]) -> Measured:
    equal = sum(len(set(row["digests"])) == 1 for row in rows)
    return Measured(equal == len(rows) > 0, f"{equal} of {len(rows)} trainings", "all")


def _as_one(rows: list[dict]) -> Measured:
    found = [(row["from_one_process"], f"{row['problem']}, {row['optimizer']}") for row in rows]
    # NaN is the worst. Without any training the claim does not hold.
    distance, worst = max(
        found or [(np.nan, "no training")], key=lambda pair: np.nan_to_num(pair[0], nan=np.inf)
    )
    return Measured(
        distance <= TOLERANCE,
        f"at most {short(distance)} apart ({worst})",
        f"at most {short(TOLERANCE)}",
    )


def _by_case(rows: list[dict]) -> list[tuple[dict, dict]]:
    """Returns the rows of each training with whole state and with sharded state."""
    found: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        found.setdefault((row["problem"], row["optimizer"]), {})[row["state"]] = row
    return [(case["whole"], case["sharded"]) for case in found.values()]


def _shards_equal(rows: list[dict]) -> Measured:
    pairs = _by_case(rows)
    equal = sum(whole["digests"][0] == sharded["digests"][0] for whole, sharded in pairs)
    return Measured(equal == len(pairs) > 0, f"{equal} of {len(pairs)} trainings", "all")


def _divided(rows: list[dict]) -> Measured:
    """No rank has more than a perfect division and the largest part that is not divided."""
    shares, held = [], bool(rows)
    for whole, sharded in _by_case(rows):
        total, largest = whole["state_bytes"][0], max(sharded["state_bytes"])
        shares.append(f"{sharded['problem']}: {largest / total:.1%}")
        bound = total / sharded["workers"] + sharded["undivided_bytes"]
        held = held and sum(sharded["state_bytes"]) == total and largest <= bound
    share = f"{1 / rows[0]['workers']:.0%}" if rows else "their part"
    return Measured(
        held,
        f"largest share of a rank: {'; '.join(dict.fromkeys(shares)) or 'none'}",
        f"together the whole; each at most {share} and a row",
    )


_CLAIMS = (
    (
        "all ranks end with the same parameters, bit for bit",
        "every rank makes the same update from the same mean of gradients",
        _ranks_equal,
    ),
    (
        "the parameters are those of one process on the joined batch",
        "sums over parts of a batch are rounded in another order",
        _as_one,
    ),
    (
        "sharded state gives the parameters of whole state, bit for bit",
        "a row belongs to one rank as a whole, so its update is the same",
        _shards_equal,
    ),
    (
        "the ranks divide the state among them",
        "rows are not divided; without the fused kernel parameters are not",
        _divided,
    ),
)

STUDY = Study(name="ranks", config=RanksConfig, run=run, options=("resume",))
