"""The process of one side.

The first run of a side trains and writes a record; then it nudges the weights of some steps, to
find out which elements of the gradients are rounding noise. The second run trains again and
measures its distance to the first (the noise floor); then it replays other sides' records, which
separates the causes. In step t of a replay of side A through side B

    the gradient of B is taken at the parameters that A had, on the same batch, and compared with
    A's gradient: both had the same weights;
    B's optimizer is given A's gradients, from the first step on, and its moments and parameters are
    compared with A's: both had the same gradients.

Neither carries on what training makes of a difference, so each is the side's own.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from ms_adam.lab.errors import UserError
from ms_adam.lab.run.worker import Events, enter, short_message
from ms_adam.lab.studies.compare.config import Comparison
from ms_adam.lab.studies.compare.distances import Distances
from ms_adam.lab.studies.compare.noise import Noise, Sampler, of_both, sampled_steps
from ms_adam.lab.studies.compare.record import Record, RecordWriter
from ms_adam.lab.targets import MindSporeOptimizer, dtype_name, rounded


def work(job: dict, events: Events) -> None:
    """Does one run.

    Args:
        job: ``comparison`` (the config as plain values); ``side``, its name; ``initial``, the file
            of the first weights, which is written if it is not there; and either ``record``, the
            folder to write, with ``limit_mb``, or ``again``, the folder of the first run's record,
            with ``floor``, the file for the distances to it, and ``replays``, a list of
            {"record": folder, "distances": file, "leave_out_noise": of the gradients}.
        events: Where to report.
    """
    comparison = Comparison.model_validate(job["comparison"])
    name = job["side"]
    side = comparison.sides[name]
    try:
        enter(side.mode, side.context)
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise UserError(
            f"side '{name}': the context {side.context} is refused: {short_message(error)}"
        ) from error

    def start() -> _Pass:
        return _Pass(comparison, name, Path(job["initial"]))

    if "record" in job:
        sampler = _first_run(start(), job, events)
        folder = Path(job["record"])
        start().sample_noise(Record(folder), sampler, events)
        sampler.found().save(folder)
        return
    steps = comparison.training.steps
    _second_run(start(), Record(Path(job["again"])), events).save(job["floor"])
    for place, replay in enumerate(job["replays"], start=1):
        record, noise = Path(replay["record"]), None
        if replay["leave_out_noise"]:
            noise = of_both(Noise.load(Path(job["again"])), Noise.load(record))
        found = _replay(start(), Record(record), events, place * steps, noise)
        found.save(replay["distances"])


class _Step(NamedTuple):
    """One step of training.

    Attributes:
        batch: A digest of the batch, uint64.
        arrays: {quantity: an array for each parameter}, after the update.
        scalars: The values of `record.SCALARS`, except for the counts.
    """

    batch: int
    arrays: dict[str, list[np.ndarray]]
    scalars: dict[str, Any]


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

    def __init__(self, comparison: Comparison, name: str, initial: Path):
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
        self._batches = factories.numbered_batches(made.data, training.steps)
        self._network = Network(made.network, made.loss, initial)
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
        place = {id(p): i for i, p in enumerate(self._optimizer.parameters)}
        self._held = [id(p) in place for p in parameters]
        self._order = [place[id(p)] for p in self._of_held(parameters)]
        self.names = self._of_held(self._network.names)
        self.initial = self._state()["parameter"]
        self._gradient_dtypes = self._of_held(list(map(dtype_name, parameters)))
        self.facts = {
            "optimizer": side.optimizer,
            "backend": self._optimizer.backend,
            "device_target": mindspore.get_context("device_target"),
        }

    def dtypes(self) -> dict[str, list[str]]:
        """{quantity: the name of each parameter's dtype}."""
        state = {q: self._ordered(names) for q, names in self._optimizer.state_dtypes().items()}
        return {"gradient": self._gradient_dtypes, **state}

    def train(self) -> Iterator[_Step]:
        """Trains; yields each step."""
        step = self._network.step(None if self._apart else self._optimizer.optimizer)
        for batch in self._batches:
            rates, decays = self._optimizer.settings()
            loss, gradients = step(batch)
            if self._apart:
                gradients = self._rounded(self._of_held(gradients))
                self._optimizer.step(self._unordered(gradients))
                self._assign(self._state()["parameter"])
            else:
                gradients = self._ordered(gradients)
            c1, c2 = self._optimizer.corrections() or (np.nan, np.nan)
            scalars = {
                "loss": loss,
                "learning_rate": self._ordered(rates),
                "weight_decay": self._ordered(decays),
                "c1": c1,
                "c2": c2,
                "gradient_norm": [np.linalg.norm(np.asarray(g, np.float64)) for g in gradients],
            }
            yield _Step(_digest(batch), {"gradient": gradients, **self._state()}, scalars)

    def gradients_at(self, positions: Iterator[Sequence[np.ndarray]]) -> Iterator[tuple]:
        """Yields (digest of the batch, loss, gradients) of each step at given parameters."""
        step = self._network.step()
        for batch, position in zip(self._batches, positions):
            yield _digest(batch), *self._at(position, step, batch)

    def sample_noise(self, record: Record, sampler: Sampler, events: Events) -> None:
        """Samples gradients at and beside the parameters that this side had in some steps."""
        gradients_of = self._network.step()
        dtypes = self._of_held(list(map(dtype_name, self._network.parameters)))
        steps = sampled_steps(self.steps)
        for step, batch in enumerate(self._batches):
            if step in steps:
                sampler.sample(
                    record.before(step),
                    dtypes,
                    lambda weights, batch=batch: self._at(weights, gradients_of, batch)[1],
                )
                events.progress(self.steps + steps.index(step) + 1)

    def states_after(self, gradients: Iterator[Sequence[np.ndarray]]) -> Iterator[dict]:
        """Yields the optimizer's state after each step with given gradients."""
        for given in gradients:
            self._optimizer.step(self._unordered(given))
            yield self._state()

    def _at(self, position: Sequence[np.ndarray], step, batch) -> tuple[float, list]:
        """Loss and gradients of a batch at given parameters."""
        self._assign(position)
        loss, gradients = step(batch)
        return loss, self._rounded(self._of_held(gradients))

    def _state(self) -> dict[str, list[np.ndarray]]:
        return {q: self._ordered(arrays) for q, arrays in self._optimizer.state().items()}

    def _assign(self, position: Sequence[np.ndarray]) -> None:
        self._network.assign(position, self._held)

    def _rounded(self, gradients: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [rounded(g, dtype) for g, dtype in zip(gradients, self._gradient_dtypes)]

    def _of_held(self, values: Sequence) -> list:
        """Selects from one value for each parameter of the network those of the optimizer's."""
        return [value for value, held in zip(values, self._held) if held]

    def _ordered(self, values: Sequence) -> list:
        """From the optimizer's order to the network's."""
        return [values[i] for i in self._order]

    def _unordered(self, values: Sequence) -> list:
        """Back to the optimizer's order."""
        return [value for _, value in sorted(zip(self._order, values), key=lambda pair: pair[0])]


def _first_run(run: _Pass, job: dict, events: Events) -> Sampler:
    """Trains and writes the record. The sampler that is returned has seen all gradients."""
    folder, limit_mb = Path(job["record"]), job["limit_mb"]
    writer = RecordWriter(folder, run.names, run.dtypes(), run.steps, run.initial, limit_mb)
    sampler = Sampler(run.steps, [array.shape for array in run.initial])
    for step, passed in enumerate(run.train()):
        sampler.see(passed.arrays["gradient"])
        for quantity, arrays in passed.arrays.items():
            writer.write(step, quantity, arrays)
        for name, value in passed.scalars.items():
            writer.scalars[name][step] = value
        writer.batches[step] = passed.batch
        events.progress(step + 1)
    writer.close(**run.facts)
    return sampler


def _second_run(run: _Pass, first: Record, events: Events) -> Distances:
    """Trains again and measures the distance to the first run."""
    found = Distances.empty(first.names, first.quantities, first.steps)
    for step, passed in enumerate(run.train()):
        if passed.batch != first.batches[step]:
            raise UserError(
                f"the data gave another batch {step + 1} in a second run: with one seed a factory "
                "must give one order of batches"
            )
        loss = passed.scalars["loss"]
        found.measure(step, first, loss, passed.arrays, first.dtypes, run.initial)
        events.progress(step + 1)
    return found


def _replay(
    run: _Pass, other: Record, events: Events, done: int, noise: Optional[Sequence[np.ndarray]]
) -> Distances:
    """Feeds another side's weights to this one's network, its gradients to this one's optimizer.

    Noise is left out of the gradients only: moments and parameters are of equal gradients.
    """
    if run.names != other.names:
        raise UserError(
            "two sides optimize other parameters: "
            f"{', '.join(sorted(set(run.names) ^ set(other.names))[:5])}"
        )
    dtypes, initial = run.dtypes(), run.initial
    quantities = [quantity for quantity in other.quantities if quantity in dtypes]
    found = Distances.empty(run.names, quantities, run.steps)
    given = (other.read(step, "gradient") for step in range(run.steps))
    for step, state in enumerate(run.states_after(given)):
        found.measure(step, other, None, state, dtypes, initial)
        events.progress(done + step // 2)

    left_out = None if noise is None else {"gradient": noise}
    before = map(other.before, range(run.steps))
    for step, (batch, loss, gradients) in enumerate(run.gradients_at(before)):
        if batch != other.batches[step]:
            raise UserError(f"two sides were given other batches in step {step + 1}")
        found.measure(step, other, loss, {"gradient": gradients}, dtypes, initial, left_out)
        events.progress(done + (run.steps + step + 1) // 2)
    return found


def _digest(batch: tuple) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in batch:
        for array in part:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return int.from_bytes(digest.digest(), "little")
