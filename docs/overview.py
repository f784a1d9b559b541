"""Measures and draws the picture of the README.

    python docs/overview.py             measures into docs/overview.json, then draws (15 minutes)
    python docs/overview.py --draw      draws docs/overview.png from docs/overview.json

The errors are those of `ms_adam.lab.studies.matrix.accuracy`: the largest error of an element over
the largest displacement, against Algorithm 1 in float64. The costs are those of `ms-adam bench`,
whose contenders take turns; a ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SCALES = tuple(10.0**-power for power in range(11))
STEPS = (1, 100)
CASES = ("2,000 x 200", "400 x 5,000", "160 x 156,250")
# Title: options of `ms-adam bench`, our contender, its counterpart.
COSTS = {
    "compiled into a training step": ([], "fused", "nn.Adam"),
    "called from Python, in PyNative mode": (
        ["--eager"],
        "called, PyNative",
        "nn.Adam called, PyNative",
    ),
}
COLOURS = {"mindspore.nn.Adam": "#D55E00", "ms_adam.Adam": "#0072B2"}  # Okabe & Ito 2008


def measure_errors() -> list[dict]:
    """Returns the error of each optimizer for each size of gradients and number of steps."""
    import numpy as np
    from mindspore import nn

    import ms_adam
    from ms_adam import reference
    from ms_adam.lab.measure import relative_distance
    from ms_adam.lab.studies.matrix.accuracy import of_mindspore, of_reference

    algorithm1 = reference.Adam(float(np.float32(1e-3)))
    rows = []
    for name, make in (("mindspore.nn.Adam", nn.Adam), ("ms_adam.Adam", ms_adam.Adam)):
        for scale in SCALES:
            places = of_mindspore(make, scale, STEPS), of_reference(algorithm1, scale, STEPS)
            for steps, got, want in zip(STEPS, *places):
                error = float(relative_distance(got, want))
                rows.append({"optimizer": name, "size": scale, "steps": steps, "error": error})
    return rows


def measure_costs() -> tuple[list[dict], dict]:
    """Returns the cost of a step in each case, relative to nn.Adam, and the environment."""
    rows, environment = [], {}
    for title, (options, ours, theirs) in COSTS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bench.json"
            command = ["bench", *options, "--rounds", "3", "--passes", "1", "--json", str(path)]
            for name in CASES:
                command += ["--case", name]
            for name in (ours, theirs):
                command += ["--contender", name]
            code = "import sys; from ms_adam.lab.cli import main; main()"
            subprocess.run([sys.executable, "-c", code, *command, "--out", folder], check=True)
            content = json.loads(path.read_text())
        environment = content["environment"]
        found = {(row["case"], row["contender"]): row for row in content["results"]}
        for case in CASES:
            mine, other = found[case, ours], found[case, theirs]
            ratios = [
                a / b
                for turn, other_turn in zip(mine["rounds_ms"], other["rounds_ms"])
                for a, b in zip(turn, other_turn)
            ]
            rows.append(
                {
                    "case": case,
                    "how": title,
                    "ratio": statistics.median(ratios),
                    "ms": mine["step_ms"],
                    "nn_adam_ms": other["step_ms"],
                }
            )
    return rows, environment


def draw(content: dict, path: Path) -> None:
    """Draws the errors beside the costs.

    Args:
        content: The content of docs/overview.json.
        path: Of the PNG.
    """
    import matplotlib
    from matplotlib.figure import Figure

    from ms_adam.lab.report.plots import STYLE

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, colour in COLOURS.items():
            for steps, line in zip(STEPS, ("-", ":")):
                own = [
                    row
                    for row in content["errors"]
                    if row["optimizer"] == name and row["steps"] == steps
                ]
                left.loglog(
                    [row["size"] for row in own],
                    [row["error"] for row in own],
                    line,
                    color=colour,
                    marker="o",
                    markersize=3,
                    label=f"{name}, {steps} step{'s' if steps > 1 else ''}",
                )
        left.invert_xaxis()
        left.set_title("Error against Algorithm 1 of the paper")
        left.set_xlabel("size of the gradients")
        left.set_ylabel("relative error")
        left.legend(fontsize=8)

        height = 0.36
        for i, (title, shade) in enumerate(zip(COSTS, (1.0, 0.55))):
            own = [row for row in content["costs"] if row["how"] == title]
            places = [j + (i - 0.5) * height for j in range(len(own))]
            colour = COLOURS["ms_adam.Adam"]
            ratios = [row["ratio"] for row in own]
            right.barh(places, ratios, height * 0.92, color=colour, alpha=shade)
            for place, ratio in zip(places, ratios):
                text = f"{ratio:.2g}" + f"  {title}" * (place == places[0])
                right.text(ratio + 0.01, place, text, va="center", fontsize=8)
        right.axvline(1, color=COLOURS["mindspore.nn.Adam"], linewidth=1.5)
        right.set_xlim(0, 1.05)
        right.set_yticks(range(len(CASES)), [f"{case}\nparameters" for case in CASES], fontsize=8)
        right.invert_yaxis()
        right.grid(axis="y", visible=False)
        right.set_title("Cost of a step, nn.Adam = 1")
        figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draw", action="store_true", help="draw from the numbers on disk")
    data = HERE / "overview.json"
    if not parser.parse_args().draw:
        errors = measure_errors()
        costs, environment = measure_costs()
        content = {
            "schema": 1,
            "command": "python docs/overview.py",
            "environment": environment,
            "errors": errors,
            "costs": costs,
        }
        data.write_text(json.dumps(content, indent=1) + "\n")
    draw(json.loads(data.read_text()), HERE / "overview.png")


if __name__ == "__main__":
    main()
