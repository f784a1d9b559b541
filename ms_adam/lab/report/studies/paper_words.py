"""The words of the report on the paper's figures, from an entry of ``results.json``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

STATUSES = ("reproduced", "not reproduced", "inconclusive")

SEARCHED = (
    "Only learning rates are searched, and each optimizer of a figure gets the same number of "
    "them. Where the best is the least or the largest, two beyond it are tried too. Nothing else "
    "is searched: momentum, betas, decay rates, epsilons, L2, dropout rates, batch size and widths "
    "stay at the numbers that stand beside each figure. Another optimizer might be ahead at other "
    "numbers.",
    "A learning rate is chosen by its cost at the end, on a tuning seed, and for claims about the "
    "first epochs too; the judged seeds had no part in the choice. Figure 4 is a grid, every step "
    "size of which runs on every seed; its claim about the best step size takes the best of each "
    "seed. One seed decides the first weights, the order of the examples and all noise, for all "
    "optimizers alike.",
)
JUDGED = (
    "The paper publishes curves of the training cost, and neither step sizes nor numbers. So a "
    "verdict is about an ordering and not about how large a cost is; nothing about the paper's "
    "figures is about test accuracy.",
    "Two optimizers are compared by the ratio that each seed gives. The mean of its logarithm over "
    "the seeds gets bounds that hold at every number of seeds at once (a confidence sequence of "
    "t-tests, Lai 1976; Wang & Ramdas 2023, arXiv 2310.03722). A claim is reproduced if they are "
    "within what it permits, not reproduced if they are outside, and inconclusive otherwise. "
    "'About as fast' is a test of equivalence, whose margin stands in the config.",
    "Counts, and comparisons in which a run diverged, are judged by the signs of each seed's "
    "difference, by bets that hold at every number of seeds too.",
    "Of a claim with several comparisons all must hold and one that fails decides. The ways in "
    "which it may fail share its error. The comparison shown in the table is the one that decided, "
    "or that would take most seeds.",
    "All optimizers run on the first seeds. Those of claims that are open then get more, as long "
    "as the time that the config sets lasts. A claim that would take more than five times the most "
    "seeds gets none.",
    "Where a best learning rate is the least or the largest that was tried, a better one may lie "
    "beyond, and the report says so beside the verdict. If it is that of the optimizer whose "
    "lesser result decides a comparison, the comparison is inconclusive; but not in figure 4, "
    "whose step sizes are the paper's.",
)
SECONDS = (
    "Seconds are wall time of one process that trains one run after the other; what else "
    "the machine did at the time is in them."
)


def number(value: Any, infinite: str = "diverged") -> str:
    """Formats a number with four digits, "inf" in words."""
    value = float(value)
    return infinite if value == float("inf") else f"{value:.4g}"


def spread(values: Sequence[Any], infinite: str = "diverged") -> str:
    """Formats the mean over seeds, and the range from the least to the most."""
    numbers = [float(value) for value in values]
    if float("inf") in numbers:
        return ", ".join(number(value, infinite) for value in numbers)
    mean = sum(numbers) / len(numbers)
    return f"{number(mean)} ({number(min(numbers))} to {number(max(numbers))})"


def duration(seconds: float) -> str:
    """Formats a time: "40 s", "1.5 min", "95 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 600 else f"{seconds / 60:.0f} min"


def counts(figures: Iterable[dict]) -> str:
    """Counts the verdicts of each status."""
    found = [verdict["status"] for figure in figures for verdict in figure["verdicts"]]
    return ", ".join(f"{found.count(status)} {status}" for status in STATUSES)


def error(figures: Sequence[dict]) -> str:
    """Says how likely a false verdict is."""
    errors = [of["config"]["error"] for of in figures for _ in of["verdicts"]]
    each = " or ".join(f"{one:g}" for one in dict.fromkeys(errors))
    return (
        f"The probability that any of the {len(errors)} verdicts is false is at most "
        f"{sum(errors):.2g}: the sum of {each} for each (Bonferroni), if log-ratios are normally "
        "distributed."
    )


def takes(verdict: dict) -> str:
    """Says how many seeds would decide an inconclusive verdict; "" of another one."""
    if verdict["status"] != "inconclusive":
        return ""
    if verdict.get("needed") is None:
        return "the number of seeds that would decide it cannot be told"
    needed = verdict["needed"]
    # A larger number is of a claim that lies at its margin; the spread does not give its digits.
    needed = needed if needed < 100 else int(float(f"{needed:.1g}"))
    return f"about {needed:,} seeds would decide it"


def seed_range(seeds: Sequence[int]) -> str:
    """Names seeds: "seed 0", "seeds 1 to 20", "seeds 1, 3"."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def grid_seeds(config: dict) -> str:
    """Names the seeds of the runs among which learning rates were compared."""
    return "the judged seeds" if config["design"] == "grid" else seed_range(config["tuning_seeds"])


def edge(line: dict) -> str:
    """Says at which end of its grid the best learning rate is; "" if at none."""
    if not line["at_edge"]:
        return ""
    rates = [tried["learning_rate"] for tried in line["tried"]]
    which = "least" if line["best"] == min(rates) else "largest"
    return f"the {which} of {len(rates)} tried"


def at_edge(entry: dict, claim: dict) -> dict[str, Any]:
    """Names the lines of a claim whose best learning rate is at the edge of its grid.

    Claims of figure 4 that hold at given step sizes depend on no best one.

    Returns:
        ``edges``: variant, optimizer, learning rate and which edge, of each. ``at_edge``: only the
        optimizers, or how many lines there are if these are many.
    """
    panels = claim.get("variants") or [variant["label"] for variant in entry["config"]["variants"]]
    named = set()
    if claim["form"] == "ordering":
        named = {name for test in claim["comparisons"] for name in (test["first"], test["second"])}
    elif claim["test"] == "not worse at best":
        named = {line["optimizer"] for line in entry["lines"]}
    lines = [
        line
        for line in entry["lines"]
        if line["at_edge"] and line["optimizer"] in named and line["variant"] in panels
    ]
    names = list(dict.fromkeys(line["optimizer"] for line in lines))
    return {
        "edges": [
            f"{line['optimizer']} with {line['variant']}: {line['best']:g}, {edge(line)}"
            for line in lines
        ],
        "at_edge": ", ".join(names)
        if len(names) <= 5
        else f"{len(names)} of the settings, named below",
    }


# What the scale cuts: its key in a scale, and how it is written.
_SIZES = {
    "examples": ("examples", "{:,}".format),
    "widths": ("width", lambda width: "the paper's" if width == 1 else f"{width:g}"),
    "epochs": ("epochs", str),
    "first epochs": ("early", str),
    "learning rates": ("trials", str),
}


def cuts(entry: dict) -> dict[str, dict[str, Any]]:
    """Returns of each size the number here, at full scale, and whether the scale cuts it."""
    scale, config = entry["scale"], entry["config"]
    full = config["scales"]["full"]
    found = {
        what: {"here": form(scale[key]), "full": form(full[key]), "cut": scale[key] != full[key]}
        for what, (key, form) in _SIZES.items()
        if full[key] is not None
    }
    if entry["examples"] - _held_out(entry) < scale["examples"]:  # the data have no more
        here, most = f"{entry['examples']:,}, all there are", f"up to {full['examples']:,}"
        found["examples"] = {"here": here, "full": most, "cut": False}
    if config["network"]["kind"] == "logistic":  # has no layer of a width
        del found["widths"]
    return found


def cut_words(entry: dict) -> str:
    """Returns a sentence with what the scale cuts."""
    sizes = cuts(entry).items()
    found = [f"{what} to {cut['here']} of {cut['full']}" for what, cut in sizes if cut["cut"]]
    words = ", ".join(found) or "nothing of the full scale"
    return f"The {entry['scale']['name']} scale cuts {words}."


def facts(entry: dict) -> list[tuple[str, str]]:
    """Summarizes the config: what is fixed and what is searched, with the numbers."""
    config, scale = entry["config"], entry["scale"]
    looks = scale["looks"]
    seeds = seed_range(config["seeds"][: looks[-1]])
    at = f", judged at {_and(map(str, looks))} of them" if len(looks) > 1 else ""
    rate = "a constant learning rate"
    if config["decay"] == "inverse sqrt":
        rate = "the learning rate of step t divided by sqrt(t)"
    if config["design"] == "grid":
        searched = f"Nothing: each of {scale['trials']} step sizes runs on {seeds}{at}."
    elif scale["trials"] == 1:
        searched = f"Nothing: the learning rate of each runs on {seeds}{at}."
    else:
        searched = (
            f"The learning rate alone, {scale['trials']} for each optimizer, on "
            f"{seed_range(config['tuning_seeds'])}; the best of each then runs on the judged "
            f"{seeds}{at}."
        )
    held_out = _held_out(entry)
    costs = f"; costs are those of {held_out:,} examples that are held out" if held_out else ""
    variants = config["variants"]
    return [
        ("Data", f"{entry['examples']:,} examples; {entry['source']}"),
        ("Network", _network(config["network"], scale["width"])),
        (
            "Training",
            f"{scale['epochs']} epochs of {entry['steps_per_epoch']} steps in mini-batches of "
            f"{config['batch_size']}, {rate}{costs}",
        ),
        (
            "Fixed: regularisation",
            "\n".join(_regularisation(variant, len(variants)) for variant in variants),
        ),
        ("Fixed: optimizers", "\n".join(_settings(config["optimizers"]))),
        ("Searched", "\n".join([searched, *_grids(entry)])),
    ]


def _held_out(entry: dict) -> int:
    """Returns the number of examples held out; in older results it is that of the config."""
    return entry.get("held_out", entry["config"]["held_out"]) or 0


def _network(network: dict, width: float) -> str:
    words = {
        "logistic": "Logistic regression",
        "perceptron": "Fully connected ReLU layers of {} units",
        "convolution": "5 x 5 convolutions, each with 3 x 3 max pooling of stride 2, and a fully "
        "connected ReLU layer: {} filters and units",
        "autoencoder": "Variational auto-encoder: {} softplus units and latent variables",
    }[network["kind"]]
    paper = [*network.get("channels", ()), *network.get("hidden", ())]
    paper += [network[name] for name in ("units", "latent") if name in network]
    here = [max(1, round(units * width)) for units in paper]
    text = words.format(_and(f"{units:,}" for units in here))
    return text if here == paper else f"{text} (the paper's {_and(f'{u:,}' for u in paper)})"


def _regularisation(variant: dict, variants: int) -> str:
    words = {
        "l2": f"L2 {variant['l2']:g} (half of it times the sum of the squared weights)",
        "input_dropout": f"dropout of {100 * variant['input_dropout']:g}% of the inputs",
        "dropout": f"dropout of {100 * variant['dropout']:g}% of the hidden units",
    }
    text = ", ".join(words[name] for name in words if variant[name]) or "none"
    return f"{variant['label']}: {text}" if variants > 1 else text


def _settings(contenders: Sequence[dict]) -> list[str]:
    """Returns a line for each optimizer, with all values that a setting has in the figure."""
    by_name: dict[str, dict[str, dict]] = {}
    for contender in contenders:
        values = by_name.setdefault(contender["name"], {})
        for name, value in contender["settings"].items():
            values.setdefault(name, {})[value] = None
    return [
        f"{optimizer}: " + ", ".join(_setting(name, values) for name, values in found.items())
        for optimizer, found in by_name.items()
    ]


def _setting(name: str, values: Iterable[float]) -> str:
    if name in ("bias_correction", "ema_debias"):
        words = ["with" if value else "without" for value in values]
        of_what = " of the averages" if name == "ema_debias" else ""
        return f"{' and '.join(words)} bias correction{of_what}"
    return f"{name} {' or '.join(f'{value:g}' for value in values)}"


def _grids(entry: dict) -> list[str]:
    """Returns a line for each grid: its optimizers and its learning rates."""
    found: dict[str, dict[str, None]] = {}
    for line in entry["lines"]:
        rates = ", ".join(f"{tried['learning_rate']:g}" for tried in line["tried"])
        found.setdefault(rates, {})[line["optimizer"]] = None
    return [f"{'All' if len(found) == 1 else _and(n)}: {rates}" for rates, n in found.items()]


def _and(words: Iterable[str]) -> str:
    """Joins words: "a", "a and b", "a, b and c"."""
    *first, last = list(words) or [""]
    return f"{', '.join(first)} and {last}" if first else last
