"""Results of studies made by hand, for the tests of their pages, and a look into plots."""

import json

import numpy as np

VERDICTS = [
    {"claim": "It is right", "status": "held", "measured": "1.0e-6", "limit": "1.0e-4"},
    {"claim": "It is wrong", "status": "not held", "measured": "7.0e-2", "limit": "1.0e-4"},
    {"claim": "Who knows", "status": "not measured", "measured": "no run", "limit": ""},
]


def write(out, runs, arrays, config, **more):
    """Writes results.json of one config, and the arrays of its runs; returns the entry."""
    labels = list(dict.fromkeys(run["label"] for run in runs))
    (out / "small").mkdir(exist_ok=True)
    for run, of_run in zip(runs, arrays):
        np.savez(out / "small" / run["file"], **of_run)
    adam = {"learning_rate": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    entry = {
        "experiment": "small",
        "config": {"name": "small", "title": "Cats <b>& dogs", "adam": adam, **config},
        "runs": runs,
        "pairs": [
            {"a": a, "b": b, "distance": 3.25e-3, "loss": 0.0}
            for i, a in enumerate(labels)
            for b in labels[i + 1 :]
        ],
        "verdicts": [{**verdict, "why": "Because"} for verdict in VERDICTS],
        **more,
    }
    write_entry(out, entry)
    return entry


def write_entry(out, entry):
    """Writes results.json of one entry."""
    environment = {"ms_adam": "0.1.0", "commit": None, "mindspore": "2.10.0", "cores": 2}
    content = {"schema": 1, "environment": environment, "results": [entry]}
    (out / "results.json").write_text(json.dumps(content))


def line(axis, label):
    """The line of a plot with this label."""
    return next(line for line in axis.lines if line.get_label() == label)
