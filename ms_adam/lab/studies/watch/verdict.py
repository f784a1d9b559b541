"""Sums up the account of an optimizer: its findings, a verdict in one sentence, lines to change."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable
from typing import Any, Optional

from ms_adam.lab.claims import short
from ms_adam.lab.studies.watch import replacing
from ms_adam.lab.studies.watch.step import FITS, Shares

# Distances of updates from Algorithm 1 above which a run is worth a word; nn.Adam's rounding of
# 1 - beta2 alone makes 1e-5.
NOTABLE = 1e-3
FEW = 0.01  # share of elements below which a weakness is not named in the verdict

# What the pages of these classes print, where `ms-adam identify` finds something else.
PRINTED = {
    "mindspore.nn.Adam": "Algorithm 1",
    "mindspore.experimental.optim.Adam": "Algorithm 1",
    "mindspore.nn.AdamWeightDecay": "no bias correction",
    "mindspore.experimental.optim.AdamW": "Algorithm 1",
    "ms_adam.Adam": "Algorithm 1",
    "ms_adam.AdamW": "Algorithm 1",
    "ms_adam.mint.Adam": "Algorithm 1",
    "ms_adam.mint.AdamW": "Algorithm 1",
}
_SHORT = {  # packages as users import them
    "mindspore.nn.optim": "mindspore.nn",
    "mindspore.experimental.optim": "mindspore.experimental.optim",
    "mindspore.mint.optim": "mindspore.mint.optim",
    "ms_adam.optimizer": "ms_adam",
}


def public_name(name: str) -> str:
    """The name that users import: mindspore.nn.Adam for mindspore.nn.optim.adam.Adam."""
    for inner, public in _SHORT.items():
        if name.startswith(f"{inner}."):
            return f"{public}.{name.rpartition('.')[2]}"
    return name


_OF_RECORD = ("at", "class", "given", "numbers", "moments", "mode", "device")


def summed_up(record: dict[str, Any]) -> dict[str, Any]:
    """The account of an optimizer from its record, see `study.records`."""
    looks = record["looks"]
    steps = [look for look in looks if "rates" in look]
    judged = [look for look in steps if look["formula"]]
    found = {
        **{key: record[key] for key in _OF_RECORD},
        "name": public_name(record["class"]),
        "process": record["process"],
        "calls": record["end"].get("calls", looks[-1]["call"] if looks else 0),
        "looks": len(looks),
        "gradients": steps[-1]["gradients"] if steps else None,
        "formula": _most(look["formula"] for look in judged),
        "alike": judged[-1]["alike"] if judged else [],
        "printed": PRINTED.get(public_name(record["class"])),
        "own": _spread(judged, "own"),
        "paper": _spread(judged, "paper"),
        **{name: _spread(judged, name) for name in Shares._fields},
        "rates": _range(look["rates"] for look in steps),
        "decays": _range(look["decays"] for look in steps),
        "skipped": _skipped(looks),
        "lost": _lost(record),
        "new_data": record["new_data"],
        "not_finite": _first_not_finite(steps),
        "parameters": _by_parameter(record["parameters"], steps),
        "series": {
            "call": [look["call"] for look in steps],
            **{key: [look.get(key) for look in steps] for key in ("own", "paper", *Shares._fields)},
            "rate": [look["rates"] for look in steps],
            "seconds": [look["seconds"]["call"] for look in steps],
        },
        "cost": _cost(record),
        "faults": record["faults"],
    }
    found["verdict"] = verdict(found)
    found["lines"] = lines(found)
    return found


def _most(values):
    counted = Counter(values).most_common(1)
    return counted[0][0] if counted else None


def _spread(looks, key):
    """The median, the largest value and the call where it was."""
    values = [(look[key], look["call"]) for look in looks if look[key] is not None]
    if not values:
        return None
    most, call = max(values)
    return {"median": statistics.median(value for value, _ in values), "most": most, "call": call}


def _range(pairs):
    pairs = list(pairs)
    return [min(low for low, _ in pairs), max(high for _, high in pairs)] if pairs else None


def _skipped(looks):
    """The number of calls without an update, and of how many; from the optimizer's own count."""
    counted = [look for look in looks if look["count"] is not None]
    if len(counted) > 1:
        first, last = counted[0], counted[-1]
        calls, updates = last["call"] - first["call"], last["count"] - first["count"]
        if 0 < updates <= calls:  # and not several in a call
            return {"calls": calls, "without": calls - updates}
    return {"calls": len(looks), "without": sum(look["updates"] == 0 for look in looks)}


def _lost(record):
    """The steps looked at in which a parameter that should move did not, and since when."""
    steps = [look for look in record["looks"] if look.get("lost")]
    if not steps:
        return None
    names = list(dict.fromkeys(name for look in steps for name in look["lost"]))
    before = [one for one in record["new_data"] if one["call"] < steps[0]["call"]]
    at = [one["at"] for one in before if one["parameter"] in names][-1:]
    looks = sum("lost" in look for look in record["looks"])
    return {
        "steps": len(steps),
        "of": looks,
        "first": steps[0]["call"],
        "parameters": names,
        "after": at[0] if at else None,
    }


def _first_not_finite(steps):
    for look in steps:
        if look["not_finite"]:
            name, quantities = next(iter(look["not_finite"].items()))
            return {"call": look["call"], "parameter": name, "quantities": quantities}
    return None


def _by_parameter(parameters, steps):
    rows = [{"name": name, "shape": shape, "dtype": dtype} for name, shape, dtype in parameters]
    for place, row in enumerate(rows):
        of = [look["parameters"][place] for look in steps]
        for key, number in (("gradient", 1), ("weight", 2), ("ratio", 3)):
            row[key] = [one[number] for one in of]
    return rows


def _cost(record):
    """Seconds of a call, of the tail before it, and of a whole step; the first call compiles."""
    later = [look["seconds"] for look in record["looks"] if look["call"] > 1 and look["updates"]]
    called = any(look["called"] for look in record["looks"])
    return {
        "called": called,
        "call": median(one["call"] for one in later),
        "tail": median(one["tail"] for one in later) if called else None,
        "step": record["end"].get("period"),
    }


def median(values: Iterable) -> Optional[float]:
    """The median of the values that are known; None if none is."""
    known = [float(value) for value in values if value is not None]
    return statistics.median(known) if known else None


# --- in words ----------------------------------------------------------------------------------


def verdict(found: dict[str, Any]) -> str:
    """One sentence: the worst that was found, or how good it is."""
    name, formula = found["name"], found["formula"]
    if not found["looks"]:
        return f"{name} was not looked at."
    if worst := next(filter(None, _findings(found)), None):
        return f"{name}{worst}."
    if formula is None:
        if not found["moments"]:
            return f"{name} has no two moments that could be read, and was held to no formula."
        return (
            f"{name} was held to no formula: none of {found['looks']} calls that were looked at "
            "shows one update and its gradients."
        )
    also = "" if formula.startswith("Algorithm 1") else ", which here is Algorithm 1 as well"
    most = short(found["paper"]["most"])
    return f"{name} computes {_named(found)}{also}: its updates are at most {most} from it."


def _findings(found: dict[str, Any]) -> list[Optional[str]]:
    """What is said of all that can be wrong, the worst first; None of what is not."""
    findings: list[Optional[str]] = [None] * 5
    if bad := found["not_finite"]:
        what = " and ".join(bad["quantities"])
        findings[0] = f": {what} of {bad['parameter']} not finite from call {bad['call']} on"
    if lost := found["lost"]:
        where = f" after new data at {lost['after'][0]}" if lost["after"] else ""
        names = ", ".join(lost["parameters"][:3])
        findings[1] = (
            f" loses its steps: {lost['steps']} of {lost['of']} that were looked at moved {names} "
            f"nowhere{where}"
        )
    for key, words in _WEAK.items():
        if found[key] and found[key]["median"] >= FEW:
            findings[2] = findings[2] or words.format(found[key]["median"])
    if found["formula"] is None:
        return findings
    own, paper = found["own"]["median"], found["paper"]["median"]
    if own > _fits(found):
        findings[3] = (
            f" computes no known form of Adam here: its updates are {short(own)} from the nearest, "
            f"{_named(found)}"
        )
    if paper > NOTABLE:
        share = found["epsilon"]
        why = f"; epsilon decides {100 * share['median']:.3g}% of the elements" if share else ""
        findings[4] = (
            f" computes {_named(found)}, and here that is not Algorithm 1: its updates are "
            f"{100 * paper:.2g}% off{why}"
        )
    return findings


_WEAK = {
    "underflowed": " loses second moments to underflow: {:.0%} of them are 0 under a gradient "
    "that is not",
    "stalled": " stalls: rounding swallows the change of {:.0%} of the second moments",
}


def _named(found):
    """The formula; where decay is too small to tell its kind, with both kinds."""
    rest, _, decay = found["formula"].rpartition(", ")
    other = {"L2": "decoupled decay", "decoupled decay": "L2"}.get(decay)
    if other and f"{rest}, {other}" in found["alike"]:
        return f"{rest}, L2 or decoupled decay"
    return found["formula"]


def _fits(found):
    wide = all(dtype in ("float32", "float64") for dtype in found["moments"])
    return FITS if wide else 0.1


def lines(found: dict[str, Any]) -> list[str]:
    """The line to change, as a diff, with Algorithm 1 and with what is computed now."""
    other = None if found["class"].startswith("ms_adam.") else replacing.of_class(found["class"])
    if other is None or not found["looks"]:
        return []
    where, line = found["at"]
    name = other.name.replace(":", ".")
    changed = [f"# {where}", f"- {line}", f"+ import {name.rpartition('.')[0]}"]
    same = replacing.arguments(other, "epsilon_hat")
    for formula, words in (("paper", "Algorithm 1"), ("epsilon_hat", "what it computes now")):
        added = replacing.arguments(other, formula)
        if formula == "epsilon_hat" or added != same:
            added = {key: value for key, value in added.items() if key not in found["given"]}
            changed.append(f"+ {_rewritten(line, found['name'], name, added)}  # {words}")
    return changed


def _rewritten(line: str, old: str, new: str, added: dict[str, Any]) -> str:
    """The line with the other class and more arguments, if the call begins and ends on it."""
    more = "".join(f", {key}={value!r}" for key, value in added.items())
    call = re.search(rf"\b(?:\w+\.)*{old.rpartition('.')[2]}\(", line)
    end = call and _closing(line, call.end())
    if not end:
        return f"{new}(...{more})"
    return f"{line[: call.start()]}{new}({line[call.end() : end]}{more}{line[end:]}"


def _closing(line: str, start: int) -> Optional[int]:
    """The place of the parenthesis that closes the one before `start`; None if there is none."""
    depth = 1
    for place, letter in enumerate(line[start:], start):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if not depth:
            return place
    return None


def overall(accounts: list[dict[str, Any]]) -> str:
    """The verdict on a run, in one sentence."""
    if not accounts:
        return (
            "No optimizer of MindSpore was seen. (Is the command Python? -I, -E and -S hide "
            "ms-adam from it.)"
        )
    return min(accounts, key=_rank)["verdict"]


def _rank(found: dict[str, Any]) -> tuple:
    """Sorts the worst account to the front, and those not judged last."""
    return (*(not finding for finding in _findings(found)), found["formula"] is None)


def watching(run: dict[str, Any]) -> str:
    """What watching took of a run, see `study.whole`; nothing if that is not known."""
    if not run:
        return ""
    own = run["seconds"] - run["watching"]
    rest = run["watching"] - run["looking"]
    said = (
        f"Watching took {_share(run['share'])} of the {own:.1f} s that the script took itself: "
        f"looks {_share(run['looking'] / own)}, all else {_share(rest / own)}."
    )
    promised = run["promised"]
    if promised is None or run["share"] <= promised:
        return said
    needed = run["once"] / promised
    if needed > own:
        return (
            f"{said} The run was too short: starting and first looks took {run['once']:.2f} s, "
            f"which is {promised:.0%} of {needed:.0f} s."
        )
    return f"{said} Its calls are too short for {promised:.0%}."


def _share(share):
    return f"{100 * share:.2g}%"
