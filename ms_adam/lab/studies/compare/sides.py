"""The processes of a side: one trains and writes a record; another judges records by its network.

The second one computes, in every step of a record, loss and gradients at the weights that the
recorded side had then, on the batch of that step. A difference to the recorded ones is not carried
on by training, so it is the step's own. To know what roundings make of a gradient it does so again
at weights that are nudged by one unit in the last place.

A side with several ranks trains in so many processes, which `run.launch` starts: ``python -m`` of
this module is one of them. It judges in one process, a launch of one rank, so that its optimizer
finds the communication that it may need.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Union

import numpy as np

from ms_adam.lab.errors import UserError
from ms_adam.lab.measure import UNIT, largest, nearest_to_bound, spacing
from ms_adam.lab.run.rank import Ranks, serve
from ms_adam.lab.run.worker import Events, enter, short_message
from ms_adam.lab.studies.compare.checks import NUDGES, Checks, Nudges
from ms_adam.lab.studies.compare.config import Comparison
from ms_adam.lab.studies.compare.parallel import farthest, share_of
from ms_adam.lab.studies.compare.recipe import masters_of, recipe_of, rounding_of, updates_of
from ms_adam.lab.studies.compare.record import LOSS, QUANTITIES, Record, RecordWriter
from ms_adam.lab.targets import MindSporeOptimizer, dtype_name, rounded, to_numpy

# Where no formula is known: the 0.1% whose share of elements tools of this field report.
UNKNOWN = 1e-3


def work(job: dict, events: Union[Events, Ranks], ranks: Optional[Ranks] = None) -> None:
    """Does one run.

    Args:
        job: ``comparison`` (the config as plain values); ``side``, its name; ``initial``, the file
            of the first weights, which is written if it is not there; and either ``record``, the
            folder to write, with ``limit_mb``, or ``judged``, a list of {"record": folder,
            "checks": file, "follow": whether the optimizer is to be given its gradients}, and
            ``own``, the folder of the side's record.
        events: Where to report.
        ranks: This process among others in a launch; its mode has been entered.
    """
    comparison = Comparison.model_validate(job["comparison"])
    name = job["side"]
    side = comparison.sides[name]
    try:
        if ranks is None:
            enter(side.mode, side.context)
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise UserError(
            f"side '{name}': the context {side.context} is refused: {short_message(error)}"
        ) from error

    def start() -> _Pass:
        return _Pass(comparison, name, Path(job["initial"]), ranks)

    if "record" in job:
        _train(start(), job, events)
        return
    own, steps = Record(Path(job["own"])), comparison.training.steps
    for place, judged in enumerate(job["judged"]):
        record = own if judged["record"] == job["own"] else Record(Path(judged["record"]))
        file = Path(judged["checks"])

        def tell(done: int, place=place) -> None:
            events.progress(2 * place * steps + done)

        found = _check_gradients(start, record, own, file.with_suffix(""), tell)
        if judged["follow"]:
            found = found.joined(_follow(start(), record))
        found.save(file)


class _Step(NamedTuple):
    """One step of training.

    Attributes:
        batch: A digest of the batch, uint64.
        arrays: {quantity: an array for each parameter}, after the update. Where ranks differ, that
            of the rank that differs most from rank 0.
        scalars: The values of `record.SCALARS`, except for those that follow from the arrays.
        rank: {quantity: the rank of each array}, of several.
    """

    batch: int
    arrays: dict[str, list[np.ndarray]]
    scalars: dict[str, Any]
    rank: dict[str, list[int]]


class _Pass:
    """One pass through the steps: network, optimizer and data are made anew for it.

    The side's dtype, if it has one, is that of the optimizer's parameters and of its gradients; the
    network then has their rounding and computes in its own. So all dtypes can be compared, whatever
    the network's operators can do on this device.

    Attributes:
        names: The parameters that are recorded: those of the optimizer, in the network's order. All
            arrays below are in this order.
        initial: Their first values.
        steps: Number of steps.
        facts: The side's entry in the record.
    """

    def __init__(
        self, comparison: Comparison, name: str, initial: Path, ranks: Optional[Ranks] = None
    ):
        # Not at the top: a context can only be chosen before anything is made.
        import mindspore

        from ms_adam.lab.studies.compare import factories
        from ms_adam.lab.studies.compare.network import Network

        side, training = comparison.sides[name], comparison.training
        random.seed(training.seed)
        np.random.seed(training.seed)
        mindspore.set_seed(training.seed)
        made = factories.make(
            comparison.factory, training.seed, training.batch_size, comparison.problem_of(side)
        )
        self.steps = training.steps
        self._ranks = ranks if ranks is not None and ranks.count > 1 else None
        self._batches = factories.numbered_batches(made.data, training.steps)
        with self._ranks.zero_first() if self._ranks else contextlib.nullcontext():
            self._network = Network(made.network, made.loss, initial)  # may write the first weights
        parameters = self._network.parameters
        if side.dtype is not None:
            parameters = [
                MindSporeOptimizer.parameter(parameter.asnumpy(), side.dtype, its_name)
                for parameter, its_name in zip(parameters, self._network.names)
            ]
        self._optimizer = factories.make_optimizer(name, side, parameters)
        # On parameters of their own the optimizer and the network have to be brought together; else
        # the whole step is one graph, as it is in a training.
        self._apart = side.dtype is not None or self._optimizer.name != MindSporeOptimizer.name
        # Of each recorded parameter its place in the network and in the optimizer.
        place = {id(p): i for i, p in enumerate(self._optimizer.parameters)}
        self._in_network = [i for i, p in enumerate(parameters) if id(p) in place]
        self._in_optimizer = [place[id(parameters[i])] for i in self._in_network]
        self.names = self._of_network(self._network.names)
        self.initial = self._state()
        self._gradient_dtypes = self._of_network(list(map(dtype_name, parameters)))
        self.facts = {
            "optimizer": side.optimizer,
            "backend": self._optimizer.backend,
            "device_target": mindspore.get_context("device_target"),
            "recipe": self._recipe(),
            "rounds": rounding_of(self._optimizer),
            "updates": updates_of(self._optimizer),
            "ranks": side.ranks,
        }

    @property
    def writes(self) -> bool:
        """Whether this process writes the record."""
        return self._ranks is None or self._ranks.rank == 0

    def dtypes(self) -> dict[str, list[str]]:
        """{quantity: the name of each parameter's dtype}."""
        state = {
            q: self._of_optimizer(names) for q, names in self._optimizer.state_dtypes().items()
        }
        masters = masters_of(self._optimizer)
        if masters is not None:
            state["master"] = self._of_optimizer(list(map(dtype_name, masters)))
        return {"gradient": self._gradient_dtypes, **state}

    def weight_dtypes(self) -> list[str]:
        """The dtypes of the weights in the network."""
        return self._of_network(list(map(dtype_name, self._network.parameters)))

    def train(self) -> Iterator[_Step]:
        """Trains; yields each step."""
        optimizer = None if self._apart else self._optimizer.optimizer
        ranks = self._ranks
        rank, count = (ranks.rank, ranks.count) if ranks else (0, 1)
        step = self._network.step(optimizer, count)
        if self._apart:
            self._assign(self.initial["parameter"])
        for batch in self._batches:
            rates, decays = self._optimizer.settings()
            scale = self._optimizer.loss_scale()
            loss, gradients = step(share_of(batch, rank, count))
            if self._apart:
                gradients = self._rounded(self._of_network(gradients))
                self._optimizer.step(self._for_optimizer(gradients))
                self._assign(self._state()["parameter"])
            else:
                gradients = self._of_optimizer(gradients)
            arrays, places = {"gradient": gradients, **self._state()}, {}
            if ranks:
                loss = float(np.mean(ranks.gather(np.array([loss]))))
                for quantity, mine in arrays.items():
                    arrays[quantity], places[quantity] = farthest(ranks, mine)
            c1, c2 = self._optimizer.corrections() or (np.nan, np.nan)
            scalars = {
                "loss": loss,
                "learning_rate": self._of_optimizer(rates),
                "weight_decay": self._of_optimizer(decays),
                "loss_scale": scale,
                "c1": c1,
                "c2": c2,
            }
            yield _Step(_digest(batch), arrays, scalars, places)

    def gradients(self) -> Iterator[tuple[int, Callable]]:
        """Yields for each step a digest of its batch and a function of parameters.

        The function returns the loss and the gradients there, of the whole batch or of the share of
        a rank among some.
        """
        step = self._network.step()
        for batch in self._batches:
            yield _digest(batch), functools.partial(self._at, step=step, batch=batch)

    def states_after(self, gradients: Iterator[Sequence[np.ndarray]]) -> Iterator[dict]:
        """Yields the optimizer's state after each step with given gradients."""
        for given in gradients:
            self._optimizer.step(self._for_optimizer(given))
            yield self._state()

    def _at(
        self, position: Sequence[np.ndarray], rank: int = 0, ranks: int = 1, *, step, batch
    ) -> tuple[float, list]:
        """Loss and gradients of a batch, or of a share of it, at given parameters."""
        self._assign(position)
        loss, gradients = step(share_of(batch, rank, ranks))
        return loss, self._rounded(self._of_network(gradients))

    def _state(self) -> dict[str, list[np.ndarray]]:
        state = self._optimizer.state()
        masters = masters_of(self._optimizer)
        if masters is not None:
            state["master"] = list(map(to_numpy, masters))
        return {quantity: self._of_optimizer(arrays) for quantity, arrays in state.items()}

    def _recipe(self) -> Optional[dict]:
        recipe = recipe_of(self._optimizer)
        if recipe is None:
            return None
        return recipe._replace(methods=self._of_optimizer(recipe.methods)).plain()

    def _assign(self, position: Sequence[np.ndarray]) -> None:
        self._network.assign(position, self._in_network)

    def _rounded(self, gradients: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [rounded(g, dtype) for g, dtype in zip(gradients, self._gradient_dtypes)]

    def _of_network(self, values: Sequence) -> list:
        """Of one value for each parameter of the network, those that are recorded."""
        return [values[i] for i in self._in_network]

    def _of_optimizer(self, values: Sequence) -> list:
        """Of one value for each parameter of the optimizer, in the order of the record."""
        return [values[i] for i in self._in_optimizer]

    def _for_optimizer(self, values: Sequence) -> list:
        """From the order of the record to the optimizer's."""
        return [values[i] for i in np.argsort(self._in_optimizer)]


def _train(run: _Pass, job: dict, events: Events) -> None:
    """Trains and writes the record; of several ranks, only rank 0 writes."""
    dtypes, apart = run.dtypes(), None
    if not run.writes:
        for _ in run.train():
            pass
        return
    folder, limit_mb = Path(job["record"]), job["limit_mb"]
    writer = RecordWriter(folder, run.names, dtypes, run.steps, run.initial, limit_mb)
    for step, passed in enumerate(run.train()):
        if apart is None:
            apart = _first_apart(step, passed.rank, run.names)
        for quantity, arrays in passed.arrays.items():
            writer.write(step, quantity, arrays)
        for name, value in passed.scalars.items():
            writer.scalars[name][step] = value
        writer.batches[step] = passed.batch
        events.progress(step + 1)
    writer.close(**run.facts, apart=apart)


def _first_apart(step: int, ranks: dict[str, list[int]], names: Sequence[str]) -> Optional[dict]:
    """Where ranks differ in a step; None if they do not."""
    for quantity in filter(ranks.get, QUANTITIES):
        for name, rank in zip(names, ranks[quantity]):
            if rank > 0:
                return {"step": step + 1, "quantity": quantity, "parameter": name, "rank": rank}
    return None


def _check_gradients(
    start: Callable[[], _Pass], record: Record, own: Record, scratch: Path, tell: Callable
) -> Checks:
    """Compares loss and gradients of a record with those of this side at the same weights.

    The nudged gradients have a pass of their own: one that draws random numbers then draws those of
    the training, once in each step.

    Args:
        start: Begins a pass through the steps of this side.
        record: The judged one.
        own: The record of this side.
        scratch: A folder for the gradients at the same weights.
        tell: Called with the number of steps done.
    """
    run, differs = start(), False
    dtypes = run.dtypes()["gradient"]
    writer = RecordWriter(scratch, run.names, {"gradient": dtypes}, run.steps, run.initial, np.inf)
    scales, ranks = own.scalars["loss_scale"], record.facts["ranks"]
    compared = slice(0 if record.has_losses else 1, None)  # of loss and gradients; a dump has none

    def of(record: Record, step: int) -> list[np.ndarray]:
        loss, scale = record.scalars[LOSS][step], record.scalars["loss_scale"][step]
        return _unscaled(loss, record.read(step, "gradient"), scale)

    for step, (batch, at) in enumerate(run.gradients()):
        if record is own and batch != own.batches[step]:
            raise UserError(
                f"the data gave another batch {step + 1} in a second run: with one seed a factory "
                "must give one order of batches"
            )
        loss, gradients = at(record.before(step))
        writer.write(step, "gradient", gradients)
        writer.scalars[LOSS][step], writer.scalars["loss_scale"][step] = loss, scales[step]
        pairs = list(zip(_unscaled(loss, gradients, scales[step]), of(record, step)))
        differs |= not all(np.array_equal(*pair, equal_nan=True) for pair in pairs[compared])
        tell(step + 1)
    writer.close()
    here = Record(scratch)
    stored = [["float32"] * 2, *zip(dtypes, record.dtypes["gradient"])]
    found = Checks.empty([LOSS, *run.names], ["gradient"], run.steps)
    nudges = Nudges(max(UNIT[dtype] for dtype in run.weight_dtypes()), ranks)
    confirmed = not differs
    for step, (_, at) in enumerate(start().gradients() if differs else [(0, None)] * run.steps):
        ours, theirs = of(here, step), of(record, step)
        shares = [ours]
        if differs and ranks > 1:
            before = record.before(step)
            shares = [_unscaled(*at(before, r, ranks), scales[step]) for r in range(ranks)]
        nudges.begin(step, shares)

        def beyond(step=step, ours=ours, theirs=theirs) -> bool:
            for i, pair in enumerate(zip(theirs, ours)):
                nearest = nearest_to_bound(*pair, nudges.bound(i, pair[1], stored[i]))
                found.tables["gradient"][:, step, i] = *nearest, largest(pair[1])
            return bool(np.any(found.shares("gradient")[step, compared] > 1))

        # One nudge may happen to change little: more of them before a fault is believed.
        for count in range(1 + NUDGES if differs else 0):
            if count == 1 and (confirmed or not beyond()):
                break
            nudged = _unscaled(
                *at(_nudged(record.before(step), run.weight_dtypes(), nudges.random)), scales[step]
            )
            nudges.add(ours, nudged)
        confirmed |= beyond()
        tell(run.steps + step + 1)
    shutil.rmtree(scratch)
    table = found.tables["gradient"]
    tables = {LOSS: table[..., :1]} if record.has_losses else {}
    return Checks(run.names, {**tables, "gradient": table[..., 1:]})


def _unscaled(loss: float, gradients: Sequence[np.ndarray], scale: float) -> list[np.ndarray]:
    """The loss and the gradients without their loss scale."""
    return [np.asarray(array, np.float64) / scale for array in (loss, *gradients)]


def _nudged(weights, dtypes, random) -> list[np.ndarray]:
    """Weights that are moved by one unit in the last place, up or down."""
    weights = [np.asarray(weight, np.float64) for weight in weights]
    return [
        weight + random.choice([-1.0, 1.0], weight.shape) * spacing(weight, dtype)
        for weight, dtype in zip(weights, dtypes)
    ]


def _follow(run: _Pass, record: Record) -> Checks:
    """Gives a record's gradients to this side's optimizer, whose formula is not known.

    Its differences to the record are not of single steps, and no roundings are counted: `UNKNOWN`
    takes the place of a bound. Relative to the largest element, or to the way of a weight.
    """
    quantities = [q for q in record.quantities if q != "gradient" and q in run.initial]
    found = Checks.empty(run.names, quantities, run.steps)
    given = (record.read(step, "gradient") for step in range(run.steps))
    for step, state in enumerate(run.states_after(given)):
        for quantity in quantities:
            for i, (mine, other) in enumerate(zip(state[quantity], record.read(step, quantity))):
                size = largest(mine - record.before(0)[i] if quantity == "parameter" else mine)
                nearest = nearest_to_bound(mine, other, UNKNOWN * size)
                found.tables[quantity][:, step, i] = *nearest, size
    return found


def _digest(batch: tuple) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in batch:
        for array in part:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return int.from_bytes(digest.digest(), "little")


if __name__ == "__main__":
    sys.exit(serve(lambda job, ranks: work(job, ranks, ranks)))
