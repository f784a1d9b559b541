"""``ms-adam visualize``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ms_adam.lab.cli.ending import DEBUG, NOT_HELD, errors_told
from ms_adam.lab.cli.options import config_like, json_copy


def visualize(
    config: Path = config_like("configs/comparison/"),
    out: Path = typer.Option(
        ..., "--out", metavar="DIR", help="Where to write; files of the same names are replaced."
    ),
    json_file: Optional[Path] = json_copy("trajectories.json"),
    debug: bool = DEBUG,
) -> None:
    """Follow optimizers over functions of the plane, or through a linear fit.

    Writes DIR/trajectories.json, PNG pictures and, if the config wants them, animated GIFs. Every
    optimizer is computed in NumPy float64; what MindSpore has for it starts at the same place, in
    float32, and its distance to its own formula in float64 is measured. A config names functions
    and optimizers of your own as module:callable.

    Example: ms-adam visualize configs/comparison/sphere.yaml --out runs/sphere

    Exit status: 0 if float32 roundings explain the distance of every MindSpore optimizer to the
    formula that it is said to compute, 1 if not, 2 after an error, 130 after Ctrl-C.
    """
    with errors_told(debug):
        from ms_adam.atomic_write import atomic_write as draft
        from ms_adam.lab.report import trajectories as pictures
        from ms_adam.lab.run.progress import ProgressDisplay
        from ms_adam.lab.run.results import write_json
        from ms_adam.lab.studies.trajectories import linear_fit, paths
        from ms_adam.lab.studies.trajectories.config import LinearComparison, load_comparison

        comparison = load_comparison(config)
        folder = config.parent
        with ProgressDisplay(Console(stderr=True)) as progress, draft(out) as writing:
            if isinstance(comparison, LinearComparison):
                content = linear_fit.run(comparison, folder, progress)
                pictures.write_losses(content, writing)
            else:
                content, scenes = paths.run(comparison, folder, progress)
                pictures.write_trajectories(
                    comparison,
                    scenes,
                    writing,
                    lambda done, total: progress(comparison.name, "pictures", done, total),
                )
            write_json(writing / "trajectories.json", content)
            files = sorted(path.name for path in writing.iterdir())
        if json_file is not None:
            with draft(json_file.resolve().parent) as writing:
                write_json(writing / json_file.name, content)
    _show(content["results"])
    print(f"Written to {out}: {', '.join(files)}")
    measured = [row["mindspore"] for row in content["results"] if _measured(row)]
    if not all(facts["within_limit"] for facts in measured):
        raise typer.Exit(NOT_HELD)


def _measured(row: dict[str, Any]) -> bool:
    return row["mindspore"] is not None and "distance" in row["mindspore"]


def _show(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["not_finite_from"] is not None:
            print(
                f"{row['function']}, {row['optimizer']}: diverges; not finite from step "
                f"{row['not_finite_from']}, null in the JSON"
            )
        if row["mindspore"] is not None and not _measured(row):
            print(
                f"{row['function']}, {row['optimizer']}: nothing of MindSpore's beside it: "
                f"{row['mindspore']['reason']}"
            )
    worst: dict[str, dict[str, Any]] = {}  # each optimizer where it is nearest to its limit
    for row in filter(_measured, rows):
        name = row["optimizer"]
        if name not in worst or _share(row) > _share(worst[name]):
            worst[name] = row
    if not worst:
        return
    table = Table(
        title="MindSpore (float32) against float64, given the same gradients",
        caption="each where it is nearest to the limit of what roundings explain",
    )
    for title in ("optimizer", "on", "to its own formula", "limit", "to the config's formula"):
        table.add_column(title, overflow="fold")
    for name, row in worst.items():
        facts = row["mindspore"]
        own = Text(f"{facts['distance']:.1e}", style="" if facts["within_limit"] else "bold red")
        asked = f"{facts['distance_to_method']:.1e}"
        table.add_row(
            name,
            row["function"],
            own,
            f"{facts['limit']:.1e}",
            f"{asked}: {facts['differences']}" if facts["differences"] else asked,
        )
    Console().print(table)


def _share(row: dict[str, Any]) -> float:
    return row["mindspore"]["share_of_limit"]
