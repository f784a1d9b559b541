"""Puts ms_adam in the place of an optimizer that a script makes."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, NamedTuple, Optional

FORMULAS = ("epsilon_hat", "paper")


class Replacement(NamedTuple):
    """What takes the place of a class."""

    name: str  # in module:Class
    same: dict[str, Any]  # the arguments with which it computes what the class computes
    defaults: dict[str, Any] = {}  # of the class, where they are other ones
    # Arguments that the class takes and ignores, each with the one that must be set for that.
    ignores: dict[str, str] = {}


REPLACED = {
    "mindspore.nn.optim.adam.Adam": Replacement(
        "ms_adam:Adam", {"epsilon_hat": True}, ignores={"use_nesterov": "use_amsgrad"}
    ),
    "mindspore.nn.optim.adam.AdamWeightDecay": Replacement(
        "ms_adam:AdamW", {"bias_correction": False}, {"eps": 1e-6, "weight_decay": 0.0}
    ),
    "mindspore.nn.optim.adamax.AdaMax": Replacement("ms_adam:AdaMax", {}),
    "mindspore.experimental.optim.adam.Adam": Replacement(
        "ms_adam.mint:Adam", {"epsilon_hat": True}, ignores={"amsgrad": "amsgrad"}
    ),
    "mindspore.experimental.optim.adamw.AdamW": Replacement("ms_adam.mint:AdamW", {}),
    "mindcv.optim.adamw.AdamW": Replacement("ms_adam:AdamW", {}, {"weight_decay": 0.0}),
    "mindformers.core.optim.adamw.AdamW": Replacement("ms_adam:AdamW", {}, {"weight_decay": 0.0}),
}


def of_class(name: str) -> Optional[Replacement]:
    """What can take the place of a class, given by its full name."""
    found = REPLACED.get(name)
    if found is None or importlib.util.find_spec(found.name.partition(":")[0]) is None:
        return None
    return found


def arguments(found: Replacement, formula: str) -> dict[str, Any]:
    """The arguments that a replacement is given besides those of the script.

    Args:
        found: The replacement.
        formula: "epsilon_hat": what the replaced class computes; "paper": Algorithm 1.
    """
    return {**found.defaults, **(found.same if formula == "epsilon_hat" else {})}


def replacement(cls: type, given: tuple, keywords: dict, formula: str) -> Any:
    """An optimizer of ms_adam in the place of one of `cls`; None if none can take it."""
    found = of_class(f"{cls.__module__}.{cls.__qualname__}")
    if found is None:
        return None
    from ms_adam.lab.studies.watch.account import bound

    named = {**arguments(found, formula), **bound(cls, given, keywords)}
    if formula == "epsilon_hat":
        for ignored, condition in found.ignores.items():
            if named.get(condition):
                named.pop(ignored, None)
    module, _, name = found.name.partition(":")
    return getattr(importlib.import_module(module), name)(**named)
