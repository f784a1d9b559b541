"""Small figures for the tests."""

import numpy as np

from ms_adam.lab.run.study import Session
from ms_adam.lab.studies.paper.config import PaperFigure
from ms_adam.lab.studies.paper.sweep import Line, Outcome

SETTINGS = {
    "Adam": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "bias_correction": 1},
    "SGD Nesterov": {"momentum": 0.9},
    "AdaGrad": {"eps": 1e-10},
    "RMSProp": {"decay": 0.9, "epsilon": 1e-16},
    "AdaDelta": {"rho": 0.95, "epsilon": 1e-6},
    "AdaMax": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    "nn.Adam": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    "Adam averaged": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "ema_decay": 0.9, "ema_debias": 1},
}
SCALE = {"examples": 60, "epochs": 3, "early": 1, "trials": 2, "looks": [3], "step_ms": 1.0}
DROPOUT = {
    "network": {"kind": "perceptron", "hidden": [4]},
    "variants": [{"label": "d", "dropout": 0.5}],
}


def scales(**changes):
    """All three scales with the same changes."""
    return dict.fromkeys(("quick", "standard", "full"), {**SCALE, **changes})


def content(**changes):
    """A figure of two optimizers as its YAML file would hold it."""
    return {
        "study": "paper",
        "name": "small",
        "title": "A small figure",
        "paper": "Nothing.",
        "differences": [],
        "data": {"source": "mnist"},
        "network": {"kind": "logistic"},
        "variants": [{"label": "L2", "l2": 0.01}],
        "batch_size": 20,
        "decay": "inverse sqrt",
        "design": "tuned",
        "tuning_seeds": [0],
        "seeds": [1, 2, 3],
        "error": 0.05,
        "optimizers": [contender("Adam"), contender("AdaGrad")],
        "claims": [ordering("ahead of")],
        "scales": scales(),
        **changes,
    }


def contender(name, label=None, rates=(0.01, 0.1, 1.0), **settings):
    return {
        "name": name,
        "label": label,
        "settings": {**SETTINGS[name], **settings},
        "learning_rates": list(rates),
    }


def ordering(relation, factor=1.0, measure="end", **more):
    comparison = {"first": "Adam", "relation": relation, "second": "AdaGrad", "factor": factor}
    claim = {"form": "ordering", "words": "A claim.", "measure": measure}
    return {**claim, "comparisons": [comparison], **more}


def figure(**changes):
    return PaperFigure.model_validate(content(**changes))


def outcome(*costs):
    return Outcome(np.array(costs, dtype=float), 10, 0.5)


def line(of_figure, number, finals, best=0.1, rates=(0.01, 0.1, 1.0), start=10.0):
    """An optimizer whose cost falls on each seed from `start` over the mean to one of `finals`."""
    judged = [outcome(start, start, (start + final) / 2, final) for final in finals]
    trials = {rate: [outcome(start, start, start, 1.0 if rate == best else 5.0)] for rate in rates}
    return Line(of_figure.variants[0], of_figure.optimizers[number], trials, best, judged)


def session(out, progress, tell=lambda message: None, **options):
    return Session(out, progress, tell, {"scale": "quick", **options})
