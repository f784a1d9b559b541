"""Whether each step of a side keeps to a recipe: differences, and what roundings explain of them.

A side is a run of a recipe if, in every step,

    its update is the formula's, from its own state before the step and its own gradient, within
    `measure.step_bounds`;
    its gradient is that of the network at its own weights, within `Nudges.bound`.

Both are local: no earlier difference enters, so nothing has to be known of what training makes of
one. To carry the difference of two runs on instead would take a bound on the network's curvature.

The first bound is proven: it counts the roundings of the update. There is no such count for a
network that is not known. Its bound assumes that forward and backward pass are backward stable:
what they compute is the exact gradient at weights that are off by some units in the last place.
Then what a nudge of all weights by one unit makes of an element is the size of its roundings, also
where the gradient is nothing but rounding noise (a bias before batch normalization). Where a
network draws random numbers, the runs that are compared draw the same ones.

Ranks average the gradients g_r of N shares of a batch. This adds the terms of a batch's sum in
another order, so the same assumption covers it: with terms of the size of mean |g_r| in place of
|g|, since the shares can cancel. The mean itself is counted. MindSpore computes it in float32
whatever the dtype: a cast, N - 1 sums, 1 / N and a product are (N + 2) u mean |g_r|.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional

import numpy as np

from ms_adam import reference
from ms_adam.lab.measure import UNIT, clipped, largest, nearest_to_bound, rounding, step_bounds
from ms_adam.lab.studies.compare.config import MOMENTS
from ms_adam.lab.studies.compare.recipe import Recipe, Rounding
from ms_adam.lab.studies.compare.record import Record, Tables

# Times the largest of several changes by a nudge. One rounding of each weight is one nudge; this
# allows for the roundings of sums and activations. The largest measured share of the bound is 0.14
# for gradients and 0.36 for losses: two cross-entropies, two modes and 1 and 2 threads, over 60
# steps of a network of two hidden layers on MNIST images; and between 1 and 2 ranks 0.18 and 0.12,
# over 40 steps with one hidden layer.
FACTOR = 16.0
NUDGES = 16  # more, before a difference is taken for a fault
WINDOW = 16  # steps; nudges of so many to twice as many recent ones count

DIFFERENCE, BOUND, SIZE = range(3)


class Checks(Tables):
    """Differences of a side to what it should be, and their bounds.

    The three numbers are, of the element that comes nearest to its bound, its difference and its
    bound; and the size of the quantity: the largest finite element, of weights that of the change
    in the step.
    """

    kinds = 3

    def joined(self, other: Checks) -> Checks:
        return Checks(self.names, {**self.tables, **other.tables})

    def allowed(self, quantity: str, tolerance: float = 0.0) -> np.ndarray:
        """The largest differences that hold, shape (steps, parameters)."""
        table = self.tables[quantity]
        return np.maximum(table[BOUND], tolerance * table[SIZE])

    def shares(self, quantity: str, tolerance: float = 0.0) -> np.ndarray:
        """Differences as a share of `allowed`, shape (steps, parameters); NaN is infinite."""
        difference = self.tables[quantity][DIFFERENCE]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = difference / self.allowed(quantity, tolerance)
        return np.where(difference == 0, 0.0, np.nan_to_num(share, nan=np.inf, posinf=np.inf))

    def nearest(self, quantity: str, tolerance: float = 0.0) -> tuple[int, int, float]:
        """The step and parameter with the largest share, from 0, and that share."""
        shares = self.shares(quantity, tolerance)
        step, parameter = np.unravel_index(int(np.argmax(shares)), shares.shape)
        return int(step), int(parameter), float(shares[step, parameter])


# --- gradients ---------------------------------------------------------------------------------


class Nudges:
    """The largest changes of gradients by nudges of the weights, over recent steps.

    Args:
        unit: The unit roundoff of the network's weights.
        ranks: The gradients are the mean over so many.
    """

    def __init__(self, unit: float, ranks: int = 1):
        self.random = np.random.default_rng(0)
        self._mean = (ranks + 2) * UNIT["float32"] if ranks > 1 else 0.0
        self._unit, self._recent, self._older, self._largest = unit, None, None, 0.0

    def begin(self, step: int, shares: Sequence[Sequence[np.ndarray]]) -> None:
        """Begins a step that has these gradients of the ranks' shares, without any nudge."""
        if step and step % WINDOW == 0:
            self._recent, self._older = None, self._recent
        self._sizes = [np.mean(np.abs(arrays), axis=0) for arrays in zip(*shares)]
        self._largest = np.maximum(self._largest, list(map(largest, self._sizes)))

    def add(self, here: Sequence[np.ndarray], nudged: Sequence[np.ndarray]) -> None:
        """Takes in what a nudge made of some arrays."""
        with np.errstate(invalid="ignore"):
            changes = [np.nan_to_num(np.abs(a - b), nan=0.0) for a, b in zip(here, nudged)]
        if self._recent is None:
            self._recent = changes
        else:
            self._recent = list(map(np.maximum, self._recent, changes))

    def bound(self, i: int, gradient: np.ndarray, dtypes: Sequence[str]) -> np.ndarray:
        """Bounds on the difference of a gradient, or of a loss, at the same weights.

        Args:
            i: The place of the gradient among the arrays.
            gradient: Its value without any nudge.
            dtypes: Its dtypes on both sides: an optimizer may be given rounded ones.
        """
        effects = [arrays[i] for arrays in (self._recent, self._older) if arrays is not None]
        effect = np.max(effects, axis=0) if effects else 0.0
        # The terms of an element's sum are of the size of other elements, also where all of them
        # cancel; and of earlier ones: the derivative of a cross-entropy is p - 1, which is rounded
        # as 1 is, however near to it p has come.
        roundings = effect + self._unit * self._largest[i]
        # What is not finite has no roundings: a finite element in its place is a difference.
        size, gradient = (np.where(np.isfinite(x), x, 0.0) for x in (self._sizes[i], gradient))
        stored = sum(rounding(gradient, dtype) for dtype in dtypes)
        return FACTOR * roundings + self._mean * size + stored


# --- updates -----------------------------------------------------------------------------------


def check_updates(record: Record, standard: Record) -> Checks:
    """Holds each update of a record to the recipe of another one, or of itself.

    Rates and decays of each step are those of the standard, the loss scale is the record's own.
    """
    recipe, rounds = Recipe.from_plain(standard.facts["recipe"]), Rounding(*record.facts["rounds"])
    quantities = [quantity for quantity in record.quantities if quantity != "gradient"]
    found = Checks.empty(record.names, quantities, record.steps)
    state = _State(record, recipe, rounds, Rounding(*standard.facts["rounds"]))
    rates, decays = (standard.scalars[name] for name in ("learning_rate", "weight_decay"))
    with np.errstate(all="ignore"):
        for step in range(record.steps):
            for quantity, i, got, wanted, bound in state.follow(step, rates[step], decays[step]):
                if quantity not in found.tables:
                    continue
                size = wanted
                if quantity in ("master", "parameter"):
                    size = wanted - record.before(step, quantity)[i]
                nearest = nearest_to_bound(got, wanted, bound)
                found.tables[quantity][:, step, i] = *nearest, largest(size)
    return found


class _State:
    """The state that the next update starts from."""

    def __init__(self, record: Record, recipe: Recipe, rounds: Rounding, standard: Rounding):
        self._record, self._recipe, self._rounds = record, recipe, rounds
        self._arithmetics = [rounds.arithmetic(one, standard) for one in recipe.methods]
        self._updates, self._calls = record.facts["updates"], []
        # Where the side shows no moments, those of the recipe, with the bounds on their errors.
        amsgrad = getattr(recipe.methods[0], "amsgrad", False)
        needed = ["moment1", "moment2"] + ["vhat"] * amsgrad
        self._shown = set(needed) <= set(record.quantities)
        self._states = [m.init(w) for m, w in zip(recipe.methods, record.before(0))]
        self._errors = [(0.0, 0.0, 0.0)] * len(record.names)

    def follow(self, step: int, rates, decays) -> Iterator[tuple]:
        """Yields (quantity, parameter, got, wanted, bound) of everything that a step left."""
        record = self._record
        given = self._gradients(step)
        weights = "master" if "master" in record.quantities else "parameter"
        if given is None:
            for quantity in record.quantities:
                if quantity != "gradient":
                    for i, pair in enumerate(self._around(step, quantity)):
                        yield quantity, i, pair[1], pair[0], 0.0
            return
        before = [self._before(step, i) for i in range(len(record.names))]
        around, scale = self._around(step, weights), record.scalars["loss_scale"][step]
        for i, (gradient, error) in enumerate(zip(*given)):
            start, state_error = before[i]
            weight, got = around[i]
            method = self._method(i, scale, rates[i], decays[i])
            wanted, state = method.step(weight, gradient * scale, start)
            dtype = record.dtypes[weights][i]
            # nn.Optimizer keeps learning rate and weight decay in float32; a method has float64.
            decay = UNIT["float32"] * decays[i] * np.abs(weight)
            l2 = decay if not getattr(method, "decoupled", False) else 0.0
            *moments, bound = step_bounds(
                method,
                gradient * scale,
                start,
                state,
                weight,
                wanted,
                dtype=dtype,
                arithmetic=self._arithmetics[i],
                gradient_error=error + l2,
                state_error=state_error,
            )
            bound = bound + UNIT["float32"] * np.abs(wanted - weight) + 2 * rates[i] * decay
            errors = (*moments, np.maximum(moments[1], state_error[2]))
            bounds = dict(zip(MOMENTS, errors))
            for quantity, value in self._moments_of(state).items():
                after = record.read(step, quantity)[i]
                yield quantity, i, after, value, bounds[quantity]
            self._states[i], self._errors[i] = state, errors
            yield weights, i, got, wanted, bound
            if weights == "master":
                narrow = record.dtypes["parameter"][i]
                yield "parameter", i, record.read(step)[i], got, rounding(got, narrow)
        self._updates += 1

    def _gradients(self, step: int) -> Optional[tuple[list, list]]:
        """The unscaled gradients of an update and bounds on their errors; None if there is none."""
        recipe, record = self._recipe, self._record
        scale = record.scalars["loss_scale"][step]
        given = [np.asarray(g, np.float64) / scale for g in record.read(step, "gradient")]
        if recipe.skips and not reference.all_finite(given):
            return None
        errors = [np.zeros(g.shape) for g in given]
        if recipe.accumulate_steps > 1:
            self._calls.append(given)
            if len(self._calls) < recipe.accumulate_steps:
                return None
            given, calls = reference.mean_of_calls(self._calls), len(self._calls)
            sizes = reference.mean_of_calls([[np.abs(g) for g in one] for one in self._calls])
            # Factor, product, calls - 1 sums, and the mean, here and in the reference.
            errors = [2 * (calls + 2) * UNIT["float32"] * size for size in sizes]
            self._calls = []
        if recipe.max_grad_norm is not None:
            given, errors = clipped(given, recipe.max_grad_norm, errors, self._rounds.norm_dtype)
        return given, errors

    def _before(self, step: int, i: int) -> tuple:
        """The state of a parameter before a step, and bounds on its errors."""
        state = self._states[i]._replace(step=self._updates)
        if not self._shown:
            return state, self._errors[i]
        shown = {q: self._record.before(step, q)[i] for q in self._moments_of(state)}
        return state._replace(**shown), (0.0, 0.0, 0.0)

    def _moments_of(self, state) -> dict[str, np.ndarray]:
        """The moments of a parameter's state that the side shows too."""
        own = {
            q: getattr(state, q) for q in MOMENTS if self._shown and q in self._record.quantities
        }
        return {quantity: array for quantity, array in own.items() if array is not None}

    def _around(self, step: int, quantity: str) -> list[tuple]:
        return list(zip(self._record.before(step, quantity), self._record.read(step, quantity)))

    def _method(self, i, scale, rate, decay):
        numbers = {"learning_rate": rate, "weight_decay": decay, "loss_scale": scale}
        return type(self._recipe.methods[i])(**{**vars(self._recipe.methods[i]), **numbers})
