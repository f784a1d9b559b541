"""The study of paths: each optimizer in NumPy float64, and MindSpore's beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from ms_adam.lab.claims import HELD, NOT_HELD, Verdict, short
from ms_adam.lab.run.results import results, write_json
from ms_adam.lab.run.study import Session, Study
from ms_adam.lab.studies.trajectories.config import Comparison
from ms_adam.lab.studies.trajectories.counterparts import counterpart
from ms_adam.lab.studies.trajectories.following import Fit, Problem, Told, Walk, compare, plain
from ms_adam.lab.studies.trajectories.methods import MindSporeOptimizer, load_function, method_at

REFERENCE = "NumPy float64"
RESULTS = "trajectories.json"
QUADRATICS = "quadratics.npy"  # of a linear fit, see `Fit.quadratics`
HEIGHTS = "heights.npz"  # of each function by its name: f at [row of y, column of x]


def run(configs: Sequence[Comparison], session: Session) -> dict[str, Any]:
    """Follows the optimizers of each config.

    One config writes ``trajectories.json`` and ``heights.npz`` into the session's folder, several
    into folders of their names in it.

    Returns:
        The content of ``trajectories.json``; of several, with the rows of all.

    Raises:
        UserError: There is no such function or method, or it does not do what it must.
    """
    plans = [list(_plan(config)) for config in configs]  # configs are refused before anything runs
    contents = []
    for config, plan in zip(configs, plans):
        folder = session.out if len(configs) == 1 else session.out / config.name
        folder.mkdir(parents=True, exist_ok=True)
        content = _follow(config, plan, session.progress)
        for row in content["results"]:
            for line in _remarks(row):
                session.tell(line)
        for pattern in ("*_contours.png", "*_values.png", "*_losses.png", "*_3d.png", "*_3d.gif"):
            for old in folder.glob(config.name + pattern):  # would show other paths
                old.unlink()
        (folder / "index.html").unlink(missing_ok=True)
        if config.linear_fit:
            np.save(folder / QUADRATICS, plan[0][0].quadratics())
        walks = {walk.place.label: walk for walk, *_ in plan if isinstance(walk, Walk)}
        if walks:
            heights = {name: walk.heights() for name, walk in walks.items()}
            np.savez_compressed(folder / HEIGHTS, **heights)
        write_json(folder / RESULTS, content)
        if config.figure and config.figure.animation:
            frames = len(config.functions) * config.figure.animation.frames
            session.tell(f"{config.name}: {frames} frames of animations are drawn last")
        contents.append(content)
    rows = [row for content in contents for row in content["results"]]
    return contents[0] if len(contents) == 1 else {**contents[0], "results": rows}


def folders(out: Path) -> list[Path]:
    """Returns the folders below `out` that a run wrote its results into."""
    return [path.parent for path in sorted([*out.glob(RESULTS), *out.glob(f"*/{RESULTS}")])]


def _plan(config: Comparison) -> Iterator[tuple[Problem, str, Any]]:
    """Yields the problem, the optimizer's name and its method of each path."""
    if config.linear_fit:
        fit = Fit(config.linear_fit)
        yield from ((fit, e.name, method_at(e, config.folder)) for e in config.optimizers)
    for place in config.functions or ():
        function = load_function(place, config.folder)
        for e in config.optimizers:
            yield Walk(place, function, e.steps), e.name, method_at(e, config.folder, place)


def _follow(config: Comparison, plan: list[tuple], progress: Callable) -> dict[str, Any]:
    """Follows all optimizers of a config.

    Returns:
        The content of ``trajectories.json``. A row of ``results`` has ``function``, ``optimizer``,
        ``computed_by``, ``points`` (before each step, from the start on), ``values`` (f there),
        ``end`` and ``end_value`` (after the last step), ``outside_from`` and ``not_finite_from``
        (the first step before which the path is out of the picture, or is or has a value that is
        not a finite number; or null), and ``mindspore`` (see `following.compare`). In a linear
        fit, ``points`` are the weights and ``values`` the losses of the batches; besides,
        ``epoch_values`` are the losses of all points before the first epoch and after each, and
        ``least_value`` is the least loss of all points. A number that is not finite is null.
    """
    total = sum(problem.steps for problem, *_ in plan)
    words = "linear fit" if config.linear_fit else "paths"
    rows: list[dict[str, Any]] = []
    done = 0
    for problem, name, method in plan:

        def told(steps: int, before: int = done) -> None:
            progress(config.name, words, before + steps, total)

        found = _rows(problem, name, method, config.mindspore, told)
        if all(row["computed_by"] == REFERENCE for row in found):  # which tells nothing
            told(problem.steps)
        rows += found
        done += problem.steps
    targets = []
    if any(row["computed_by"] != REFERENCE for row in rows):
        import mindspore

        targets = [mindspore.get_context("device_target")]
    return {**results(rows, targets), "comparison": config.described()}


def _rows(problem: Problem, name: str, method: Any, with_mindspore: bool, told: Told) -> list[dict]:
    """Returns the row of one optimizer, and that of its counterpart if it has one."""
    if isinstance(method, MindSporeOptimizer):
        points, values, _ = problem.mindspore(method.build, told)
        return [_row(problem, name, f"{method.name}, float32", points, values)]
    ours = _row(problem, name, REFERENCE, *problem.reference(method))
    if not with_mindspore:
        return [ours]
    other = counterpart(method)
    if isinstance(other, str):
        return [{**ours, "mindspore": {"optimizer": None, "reason": other}}]
    points, values, gradients = problem.mindspore(other.build, told)
    facts = compare(other, method, points, gradients)
    by = f"{other.name}, float32"
    return [ours, _row(problem, f"{name} ({other.name})", by, points, values, facts)]


def _row(
    problem: Problem,
    optimizer: str,
    computed_by: str,
    points: np.ndarray,
    values: np.ndarray,
    mindspore: Optional[dict] = None,
) -> dict[str, Any]:
    """Returns a row of ``results``; points and values go from the start to after the last step."""
    finite = np.isfinite(points).all(axis=1) & np.isfinite(values)
    return {
        **problem.more(points),
        "optimizer": optimizer,
        "computed_by": computed_by,
        "points": plain(points[:-1]),
        "values": plain(values[:-1]),
        "end": plain(points[-1]),
        "end_value": plain(values[-1]),
        "not_finite_from": None if finite.all() else int(np.argmin(finite)),
        "mindspore": mindspore,
    }


def _remarks(row: dict[str, Any]) -> Iterator[str]:
    where = f"{row['function']}, {row['optimizer']}"
    if row["not_finite_from"] is not None:
        yield f"{where}: diverges; not finite from step {row['not_finite_from']}, null in the JSON"
    if "reason" in (row["mindspore"] or {}):
        yield f"{where}: MindSpore has no counterpart: {row['mindspore']['reason']}"


def verdicts(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Judges each MindSpore optimizer, where it is nearest to its limit."""
    by_optimizer: dict[str, list[dict[str, Any]]] = {}
    for row in content["results"]:
        if "distance" in (row["mindspore"] or {}):
            by_optimizer.setdefault(row["optimizer"], []).append(row)
    found = []
    for rows in by_optimizer.values():
        row = max(rows, key=lambda row: float(row["mindspore"]["share_of_limit"]))  # "inf" too
        facts = row["mindspore"]
        asked = f"; to the config's formula {short(facts['distance_to_method'])}"
        asked += f": {facts['differences']}" if facts["differences"] else ""
        verdict = Verdict(
            f"{row['optimizer']} follows its own formula on {row['function']}",
            HELD if facts["within_limit"] else NOT_HELD,
            short(facts["distance"]) + asked,
            short(facts["limit"]),
            "float32 rounding explains this much, given the gradients of the path; of all "
            "functions, this is where it is nearest to the limit.",
        )
        found.append(verdict.as_dict())
    return found


STUDY = Study(
    name="trajectories",
    config=Comparison,
    run=run,
    page="ms_adam.lab.report.studies.trajectories:write_page",
    verdicts=verdicts,
)
