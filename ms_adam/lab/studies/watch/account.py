"""The account of one optimizer: what each look at it found, written down at once."""

from __future__ import annotations

import base64
import functools
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Callable, Optional

import numpy as np

from ms_adam.lab import targets
from ms_adam.lab.studies.watch import step
from ms_adam.lab.studies.watch.reading import Reader
from ms_adam.lab.studies.watch.schedule import Schedule

TRIED = 8  # steps on which all formulas are tried; later ones are held to the best
KEPT = 8  # elements of a parameter that are written down, to compare two runs


def _guarded(look: Callable) -> Callable:
    """Lets a fault of ours end the account, and not the script; false then."""

    @functools.wraps(look)
    def guarded(self, *arguments):
        try:
            return look(self, *arguments)
        except Exception:
            self._broken = True
            self._write("fault", traceback=traceback.format_exc())
            return False

    return guarded


class Followed:
    """An optimizer of the script. Its methods are called around each call that is looked at.

    Args:
        cell: A weak reference to the optimizer.
        schedule: That of its calls from Python.
        at: Where it was made, see `follow.place`.
        given: The positional and the named arguments that it was made with.
        write: Writes an event.
    """

    def __init__(
        self, cell: Callable, schedule: Schedule, at: list[str], given: tuple, write: Callable
    ):
        self.cell, self.schedule, self.stepped_by = cell, schedule, None
        self._at, self._given, self._write = at, given, write
        self._reader: Optional[Reader] = None
        self._broken = False
        self._scores: dict[tuple[str, int], float] = {}
        self._tried, self._from_moments, self._weights = 0, False, set()

    def begin(self) -> bool:
        """Describes the optimizer at its first call, since it may be gone at the script's end.

        Returns whether this is the first call.
        """
        return self._reader is None and not self._broken and self._describe()

    def new_data(self, parameter: Any, place: Callable) -> None:
        """Notes that the script gives other data to a parameter after the first step."""
        if id(parameter) in self._weights and self.stepped_by is not None:
            call = self.stepped_by.calls
            self._write("new data", call=call, parameter=parameter.name, at=place())

    def end(self) -> None:
        """Writes how often it was called."""
        schedule = self.stepped_by or self.schedule
        known = schedule.calls or schedule.budget.every == 0  # which does not count those of graphs
        if known and (self._reader is not None or self._describe()):
            self._write("optimizer's end", calls=schedule.calls, period=schedule.period())

    @_guarded
    def _describe(self) -> bool:
        """Describes the optimizer, which is initialised now; false if it is gone."""
        cell, given, self._given = self.cell(), self._given, ()
        if cell is None:
            return False
        self._reader = Reader(cell)
        self._weights = {id(parameter) for parameter in self._reader.parameters}
        self._write("optimizer", at=self._at, **described(cell, *given, self._reader))
        return True

    @_guarded
    def before(self, gradients: Any) -> bool:
        """Looks before a call; false if there is nothing to look at."""
        if self._broken or (self._reader is None and not self._describe()):
            return False
        reader = self._reader
        self._called = gradients is not None
        self._gradients = None
        if self._called and not reader.changes_gradients():
            self._gradients = reader.gradients(gradients)
        self._settings, self._method = reader.optimizer.settings(), reader.method()
        self._numbers = reader.own_numbers(self._method)
        self._look = reader.look()
        return True

    def wait(self) -> None:
        """Waits until the call has done its work."""
        self._reader.wait()

    @_guarded
    def after(self, schedule: Schedule, seconds: dict) -> bool:
        """Looks after a call; returns whether the call was one of the optimizer."""
        if self._broken:
            return False
        before, after = self._look, self._reader.look()
        made = 0
        if before.count is not None and after.count != before.count:
            made = after.count - before.count
        moved = any(
            not np.array_equal(*pair)
            for quantity in before.arrays
            for pair in zip(before.arrays[quantity], after.arrays[quantity])
        )
        stepped = bool(made or moved)
        if not stepped and not self._called and schedule is not self.stepped_by:
            return False  # a graph without this optimizer
        self.stepped_by = schedule
        found = {"call": schedule.calls, "count": after.count, "updates": made or int(moved)}
        found["called"] = self._called
        if stepped and made <= 1:
            t = after.count if made else schedule.calls
            parts = self._reader.parts(
                before, after, self._settings, self._numbers, self._gradients
            )
            found.update(self._judged(parts, t))
        self._write("look", **found, seconds=seconds)
        return True

    def _judged(self, parts: Sequence[step.Part], t: int) -> dict[str, Any]:
        """What a step shows."""
        method = self._method
        found: dict[str, Any] = {"lost": [], "formula": None}
        given = None if self._gradients is None else "given"
        updated = self._updated(parts)
        infers = all(map(step.tells_gradient, updated))
        if (given or infers) and all(part.has_moments for part in updated):
            lazy = self._reader.lazy
            from_moments = [part.with_moment_gradient(method.beta1, lazy) for part in parts]
            unscaled = replace(method, loss_scale=1.0, maximize=False)
            if not given or self._from_moments:
                self._from_moments, parts, method = True, from_moments, unscaled
                updated = self._updated(parts)
            found["lost"] = [part.name for part in updated if step.lost(method, part, t)]
            sound = [part for part in updated if part.name not in found["lost"]]
            if sound:
                fitted = self._fitted(sound, method, t)
                if infers and not self._from_moments and fitted["own"] > step.fits(sound):
                    names = [part.name for part in sound]
                    changed = [p for p in self._updated(from_moments) if p.name in names]
                    other = self._fitted(changed, unscaled, t, True)
                    if other["own"] <= step.fits(sound):
                        self._from_moments, fitted, sound, method = True, other, changed, unscaled
                        parts, self._scores = from_moments, {}
                found.update(fitted)
                form = self._formulas(method, sound)[fitted["formula"]]
                found.update(step.shares(form, sound, t)._asdict())
        found["gradients"] = "moments" if self._from_moments else given
        found["not_finite"] = {p.name: bad for p in parts if (bad := step.not_finite(p))}
        found["rates"] = _ends([part.rate for part in parts])
        found["decays"] = _ends([part.decay for part in parts])
        found["parameters"] = [_row(part, method.loss_scale) for part in parts]
        return found

    def _updated(self, parts):
        """The elements that the step updates, of the parameters that have any."""
        if self._reader.lazy:
            parts = [part.updated() for part in parts]
        return [part for part in parts if part.weight.size]

    def _formulas(self, method, parts):
        decay = any(part.decay for part in parts)
        return step.formulas(method, decay, bool(parts[0].largest.size))

    def _fitted(self, parts, method, t, from_moments=None):
        """The distances of the best formula and of the paper's."""
        decayed = self._from_moments if from_moments is None else from_moments
        forms = self._formulas(method, parts)
        # Names have the kind of decay only while there is decay, which a schedule may begin or end.
        known = {} if from_moments else self._scores
        scores = {key: score for key, score in known.items() if key[0] in forms}
        if self._tried < TRIED or not scores:
            self._tried += 1
            for name, form in forms.items():
                for late in (0, 1):
                    off = step.distance(form, parts, t + late, decayed)
                    scores[name, late] = max(off, scores.get((name, late), 0.0))
            known.update(scores)
        best = min(scores.values())
        alike = [key for key, score in scores.items() if score <= max(3 * best, 1e-5)]
        name, late = alike[0]
        paper = step.of_the_paper(forms[name])
        return {
            "formula": name,
            "first_step": 1 + late,
            "alike": list(dict.fromkeys(other for other, _ in alike if other != name)),
            "own": step.distance(forms[name], parts, t + late, decayed),
            "paper": step.distance(paper, parts, t, decayed),
        }


def _row(part, scale):
    """[gradient norm, weight norm, update / weight, elements of the weight, of the gradient]."""
    weight, change = _norm(part, part.weight), _norm(part, part.weight_after - part.weight)
    gradient = _norm(part, part.gradient / scale) if part.gradient.size else None
    ratio = change / weight if weight else None
    kept = (_kept(part.weight_after), _kept(part.gradient))
    return [part.name, *map(_short, (gradient, weight, ratio)), *kept]


def _norm(part, elements):
    """The norm of a tensor, estimated from the elements that were looked at."""
    with np.errstate(all="ignore"):
        return float(np.sqrt(np.mean(np.square(elements)) * part.size)) if elements.size else 0.0


def _short(number):
    return None if number is None else float(f"{number:.4g}")


def _kept(elements):
    return base64.b64encode(elements[:KEPT].astype("<f4").tobytes()).decode("ascii")


def _ends(numbers):
    return [min(numbers), max(numbers)]


def described(cell: Any, arguments: tuple, keywords: dict, reader: Reader) -> dict[str, Any]:
    """An optimizer in plain values: its class, the arguments that the script gave, its tensors."""
    kind = type(cell)
    given = bound(kind, arguments, keywords)
    optimized = targets.describe(kind.__name__, kind).optimizes
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "given": {name: plain(it) for name, it in given.items() if name != optimized},
        "numbers": reader.optimizer.numbers(),
        "moments": sorted({*reader.moment_dtypes} - {""}),
        "backend": getattr(cell, "backend", None),
        **context(),
        "parameters": [
            [parameter.name, list(parameter.shape), targets.dtype_name(parameter)]
            for parameter in reader.parameters
        ],
    }


def bound(kind: type, arguments: tuple, keywords: dict) -> dict[str, Any]:
    """The arguments by name."""
    return {**dict(zip(targets.names_by_position(kind), arguments)), **keywords}


def context() -> dict[str, str]:
    """MindSpore's mode, "graph" or "pynative", and device."""
    import mindspore as ms

    mode = "graph" if ms.get_context("mode") == ms.GRAPH_MODE else "pynative"
    return {"mode": mode, "device": ms.get_context("device_target")}


def plain(value: Any) -> Any:
    """A value of an argument as JSON has it; of a list of numbers, its ends; else in words."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)) and len(value) <= 4:
        return [plain(one) for one in value]
    if hasattr(value, "asnumpy"):
        value = value.asnumpy().reshape(-1).tolist()
        return value[0] if len(value) == 1 else plain(value)
    if isinstance(value, (tuple, list)) and isinstance(value[0], (int, float)):
        return f"{len(value)} values from {value[0]:g} to {value[-1]:g}"
    return targets.kind(value)
