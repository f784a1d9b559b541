"""Data-parallel trainings by one process and by several: launched, compared and judged."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import numpy as np
from pydantic import Field

from ms_adam.lab.claims import Claim, Measured, Verdict, judge, short
from ms_adam.lab.errors import Interrupted
from ms_adam.lab.run.config import (
    Checkpoints,
    Count,
    Modes,
    NotNegative,
    Once,
    Positive,
    Section,
    Seed,
    StudyConfig,
)
from ms_adam.lab.run.launch import launch
from ms_adam.lab.run.results import results, write_json
from ms_adam.lab.run.study import Session, Study

TOLERANCE = 1e-6  # to one process on the joined batch


class Images(Section):
    """A perceptron on MNIST; its gradients are dense."""

    name: Literal["images"]
    train: Count
    hidden: list[Count]


class Words(Section):
    """A table of words on movie-review snippets; lazy, with row-sparse gradients in graph mode."""

    name: Literal["words"]
    train: Count
    words: Count
    width: Count


Problem = Annotated[Union[Images, Words], Field(discriminator="name")]


class Optimizer(Section):
    """An optimizer of ms_adam; its other arguments have their defaults."""

    name: Literal["Adam", "AdamW"]
    learning_rate: Positive
    weight_decay: NotNegative


class RanksConfig(StudyConfig):
    """Trainings by one process and by several. ``configs/ranks.yaml`` describes each key."""

    study: Literal["ranks"]
    workers: Annotated[list[Annotated[Count, Field(ge=2)]], Field(min_length=1), Once]
    modes: Modes
    problems: Annotated[list[Problem], Field(min_length=1)]
    optimizers: Annotated[list[Optimizer], Field(min_length=1)]
    steps: Count
    batch_size: Count
    seed: Seed
    checkpoints: Checkpoints
    message_sizes: list[Count]

    def faults(self) -> Iterator[str]:
        of = f"batch_size = {self.batch_size}"
        for workers in self.workers:
            if self.batch_size % workers:
                yield f"{of} cannot be divided among {workers} workers in equal parts"
        for problem in self.problems:
            if problem.train < self.batch_size:
                yield f"{of} is more than the {problem.train} examples of {problem.name}"
        for key in ("problems", "optimizers"):
            names = [entry.name for entry in getattr(self, key)]
            if len(set(names)) != len(names):
                yield f"{key}: each name may stand only once"


def run(configs: Sequence[RanksConfig], session: Session) -> dict[str, Any]:
    """Makes every training with one process and with each number of workers.

    Several configs write to folders of their names. Of the session's options, ``resume`` continues
    from the newest checkpoints.

    Raises:
        RankError: A rank failed or was killed; the checkpoints stay.
        Interrupted: The user pressed Ctrl-C; the checkpoints stay.
    """
    entries, targets = [], set()
    for config in configs:
        out = session.out if len(configs) == 1 else session.out / config.name
        trainings, messages = [], []
        for mode in config.modes:
            for workers in (1, *config.workers):
                ranks = _launch(config, mode, workers, out / f"{mode}-{workers}", session)
                targets |= {rank["device_target"] for rank in ranks}
                trainings += _rows(out, mode, workers, [rank["trainings"] for rank in ranks])
                messages += [{"workers": workers, **it} for it in ranks[0]["messages"]]
        entries.append(
            {
                "name": config.name,
                "title": config.title,
                "config": config.model_dump(mode="json"),
                "trainings": trainings,
                "messages": messages,
                "verdicts": [verdict.as_dict() for verdict in verdicts(config, trainings)],
            }
        )
    content = results(entries, targets)
    write_json(session.out / "results.json", content)
    return content


def _launch(
    config: RanksConfig, mode: str, workers: int, folder: Path, session: Session
) -> list[dict[str, Any]]:
    """Makes all trainings in a number of processes; returns what each rank found."""
    resume = session.options.get("resume", False)
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    running = f"{mode}, {workers} worker{'s' if workers > 1 else ''}"
    session.progress(config.name, running, 0, 1)
    job = {"run": config.model_dump(mode="json"), "mode": mode, "resume": resume}
    events = launch(workers, "ms_adam.lab.studies.ranks.training", job, folder)
    try:
        with contextlib.closing(events):
            for event in events:
                session.progress(config.name, running, event["done"], event["total"])
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped in {folder}; the same command with --resume goes on from the newest "
            "checkpoints"
        ) from None
    paths = (folder / f"found_{rank}.json" for rank in range(workers))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _rows(out: Path, mode: str, workers: int, ranks: list[list[dict]]) -> Iterator[dict[str, Any]]:
    """Yields one row for each training of a launch."""
    for each in zip(*ranks):
        common = {k: v for k, v in each[0].items() if k not in ("digest", "state_bytes")}
        case = f"{common['problem']}-{common['optimizer']}"
        alone = out / f"{mode}-1" / f"{case}-whole.npz"
        here = out / f"{mode}-{workers}" / f"{case}-{common['state']}.npz"
        yield {
            "mode": mode,
            "workers": workers,
            **common,
            "parameters": sum(common["sizes"]),
            "digests": [rank["digest"] for rank in each],
            "state_bytes": [rank["state_bytes"] for rank in each],
            "from_one_process": _distance(here, alone),
        }


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
            of = f"{mode}, {workers} workers: "
            found += judge([claim._replace(claim=of + claim.claim) for claim in _CLAIMS], here)
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
    measured = f"at most {short(distance)} apart ({worst})"
    return Measured(distance <= TOLERANCE, measured, f"at most {short(TOLERANCE)}")


def _pairs(rows: list[dict]) -> list[tuple[dict, dict]]:
    """Returns the rows of each training with whole state and with sharded state."""
    whole, sharded = ([r for r in rows if r["state"] == state] for state in ("whole", "sharded"))
    return list(zip(whole, sharded))


def _shards_equal(rows: list[dict]) -> Measured:
    pairs = _pairs(rows)
    equal = sum(whole["digests"][0] == sharded["digests"][0] for whole, sharded in pairs)
    return Measured(equal == len(pairs) > 0, f"{equal} of {len(pairs)} trainings", "all")


def _divided(rows: list[dict]) -> Measured:
    """No rank has more than a perfect division and the largest part that is not divided."""
    shares, held = {}, bool(rows)
    for whole, sharded in _pairs(rows):
        total, largest = whole["state_bytes"][0], max(sharded["state_bytes"])
        shares[f"{sharded['problem']}: {largest / total:.1%}"] = True
        bound = total / sharded["workers"] + sharded["undivided_bytes"]
        held = held and sum(sharded["state_bytes"]) == total and largest <= bound
    share = f"{1 / rows[0]['workers']:.0%}" if rows else "their part"
    measured = f"largest share of a rank: {'; '.join(shares) or 'none'}"
    return Measured(held, measured, f"together the whole; each at most {share} and a row")


_CLAIMS = (
    Claim(
        "all ranks end with the same parameters, bit for bit",
        "every rank makes the same update from the same mean of gradients",
        "",
        _ranks_equal,
    ),
    Claim(
        "the parameters are those of one process on the joined batch",
        "sums over parts of a batch are rounded in another order",
        "",
        _as_one,
    ),
    Claim(
        "sharded state gives the parameters of whole state, bit for bit",
        "a row belongs to one rank as a whole, so its update is the same",
        "",
        _shards_equal,
    ),
    Claim(
        "the ranks divide the state among them",
        "rows are not divided; without the fused kernel parameters are not",
        "",
        _divided,
    ),
)

STUDY = Study(name="ranks", config=RanksConfig, run=run, options=("resume",))
