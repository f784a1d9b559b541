"""What trainers do around an optimizer, in any order and together with any options.

hypothesis chooses the options and the actions. After each, weights, averages and counters are those
of the reference in float64.
"""

import copy
import dataclasses
import pickle

import mindspore as ms
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from mindspore import Parameter, Tensor, amp, nn, ops
from running import as_tensors, set_mode, step_of, to_numpy

import ms_adam
from ms_adam import reference
from ms_adam.reference.tail import Average, adjust_loss_scale, mean_of_calls

SHAPES = {"dense.weight": (3, 5), "scalar": (), "table": (6, 4)}
# Exact in float32, as are the rates below.
DECAY, RATE, SCALE, WINDOW, EMA = 0.125, 0.0625, 1024.0, 3, 0.9

OPTIONS = st.fixed_dictionaries(
    {
        "max_grad_norm": st.sampled_from([None, 0.5]),
        "accumulate_steps": st.sampled_from([1, 1, 2, 3]),
        "ema_decay": st.sampled_from([None, EMA]),
        "maximize": st.booleans(),
        "weight_decay": st.sampled_from([0.0, DECAY]),
    }
)
LAYOUTS = st.fixed_dictionaries(
    {"backend": st.sampled_from(["fused", "fused", "composite"]), "flat_state": st.booleans()}
)
# Their class, its options, and their method in the reference.
METHODS = {
    "Adam": (ms_adam.Adam, {}, reference.Adam()),
    "AMSGrad": (ms_adam.Adam, {"use_amsgrad": True}, reference.Adam(amsgrad=True)),
    "epsilon-hat": (ms_adam.Adam, {"epsilon_hat": True}, reference.Adam(epsilon="hat")),
    "AdamW": (ms_adam.AdamW, {}, reference.Adam(decoupled=True)),
    "AdaMax": (ms_adam.AdaMax, {}, reference.AdaMax()),
}


class Owner(nn.Cell):
    """Gives its own prefix to the Parameters of an optimizer, as a trainer's Cell does."""

    def __init__(self, optimizer):
        super().__init__()
        self.optimizer = optimizer


class Training(RuleBasedStateMachine):
    """An optimizer, and what the reference says that it has."""

    @initialize(
        name=st.sampled_from(sorted(METHODS)),
        options=OPTIONS,
        layout=LAYOUTS,
        loss=st.sampled_from(["plain", "scaled", "skipped"]),
        masters=st.booleans(),
        mode=st.sampled_from(["graph", "pynative"]),
        seed=st.integers(0, 99),
    )
    def begin(self, name, options, layout, loss, masters, mode, seed):
        set_mode(mode)
        self.mode, self.random = mode, np.random.default_rng(seed)
        self.make, own, method = METHODS[name]
        self.options = {**own, **options, "master_weights": masters}
        self.method = dataclasses.replace(method, maximize=options["maximize"])
        self.loss, self.dtype = loss, "float16" if masters else "float32"
        self.rate, self.scale, self.counter = RATE, SCALE if loss == "scaled" else 1.0, 0
        self.updates = self.steps = self.skipped = 0
        self.calls, self.allowed = [], 0.0
        weights = [self.random.standard_normal(shape) for shape in SHAPES.values()]
        self.parameters = [
            Parameter(tensor, name=name)
            for tensor, name in zip(as_tensors(weights, self.dtype)[0], SHAPES)
        ]
        self.weights = [to_numpy(p).astype(np.float64) for p in self.parameters]
        self.state = [self.method.init(w) for w in self.weights]
        self.average = Average(EMA, debias=True)
        self.averages = [self.average.start(w) for w in self.weights]
        self.build(layout)

    def build(self, layout):
        more, self.scaler = {}, None
        if self.loss == "scaled":
            more["loss_scale"] = self.scaler = amp.DynamicLossScaler(SCALE, 2, WINDOW)
        if self.loss == "skipped":
            more["skip_nonfinite"] = True
        self.optimizer = self.make(self.parameters, self.rate, **self.options, **more, **layout)
        self.compiled = None

    @rule(size=st.sampled_from([1.0, 1e-3]), bad=st.integers(0, 3), compiled=st.booleans())
    def step(self, size, bad, compiled):
        """One call. A bad one has a gradient that is not finite, if the optimizer looks for it."""
        arrays = [size * self.scale * self.random.standard_normal(s) for s in SHAPES.values()]
        if bad == 0 and self.loss != "plain":
            arrays[2][-1, -1] = self.random.choice([np.nan, np.inf, -np.inf])
        tensors, exact = as_tensors(arrays, "float32")
        if compiled and self.mode == "graph":
            self.compiled = self.compiled or step_of(self.optimizer, True)
            self.compiled(tensors)
        else:
            self.optimizer(tensors)
        self.called(exact)

    @rule(rows=st.lists(st.integers(0, 5), min_size=1, max_size=3))
    def step_of_rows(self, rows):
        """One call in which the table has gradients for some rows, one of them twice perhaps."""
        arrays = [self.scale * self.random.standard_normal(s) for s in ((3, 5), (), (len(rows), 4))]
        (weight, scalar, values), exact = as_tensors(arrays, "float32")
        self.optimizer((weight, scalar, (Tensor(rows, ms.int32), values)))
        table = np.zeros(SHAPES["table"])
        np.add.at(table, rows, exact[2])
        self.called([*exact[:2], table])

    def called(self, gradients):
        scale, finite = self.scale, all(np.isfinite(g).all() for g in gradients)
        if self.loss == "scaled":
            self.scale, self.counter = adjust_loss_scale(scale, self.counter, finite, 2.0, WINDOW)
        if not finite:
            self.skipped += 1
            return
        self.calls.append([g / scale for g in gradients])
        if len(self.calls) == self.options["accumulate_steps"]:
            self.update()

    def update(self):
        gradients, self.calls = mean_of_calls(self.calls), []
        limit = self.options["max_grad_norm"]
        if limit is not None:
            gradients = reference.clip_by_global_norm(gradients, limit)
        settings = {"learning_rate": self.rate, "weight_decay": self.options["weight_decay"]}
        for i, gradient in enumerate(gradients):
            self.weights[i], self.state[i] = self.method.step(
                self.weights[i], gradient, self.state[i], **settings
            )
            self.averages[i] = self.average.update(self.averages[i], self.weights[i])
        self.updates += 1
        self.steps += 1
        # An update is at most (1 - beta1) / sqrt(1 - beta2) = 3.2 times the rate. It has three
        # roundings for each of the 10 steps that a first moment remembers, half of three for each
        # of up to 25 in the root of the second, and 16 of its own.
        self.allowed += 3.2 * self.rate * (3 * 10 + 1.5 * 25 + 16) * 2**-24

    @precondition(lambda self: self.options["accumulate_steps"] > 1)
    @rule()
    def flush(self):
        assert self.optimizer.flush() == bool(self.calls)
        if self.calls:
            self.update()

    @rule(rate=st.sampled_from([0.0, 2**-6, 0.125]), by_data=st.booleans())
    def set_rate(self, rate, by_data):
        self.rate = rate
        if by_data:
            self.optimizer.learning_rate.set_data(Tensor(rate, ms.float32))
        else:
            self.optimizer.lr = rate

    @rule(chosen=st.sets(st.integers(0, 2), min_size=1), by=st.sampled_from(["data", "assign"]))
    def load_weights(self, chosen, by):
        for i in chosen:
            array = self.random.standard_normal(self.weights[i].shape)
            (tensor,), (exact,) = as_tensors([array], self.dtype)
            parameter = self.optimizer.parameters[i]
            parameter.set_data(tensor) if by == "data" else ops.assign(parameter, tensor)
            self.weights[i] = exact

    @rule(ahead=st.integers(1, 3))
    def move_the_step(self, ahead):
        """As mindone does while it accumulates: schedules go on, the bias correction does not."""
        self.steps += ahead
        self.optimizer.global_step.set_data(Tensor([self.steps], ms.int32))

    @rule()
    def own(self):
        self.owner, self.compiled = Owner(self.optimizer), None

    @rule(layout=LAYOUTS, by=st.sampled_from(["load_state", "deepcopy", "pickle"]))
    def resume(self, layout, by):
        before = self.optimizer
        if by == "load_state" or self.scaler is not None:  # whose copies have a scaler of their own
            state = ms_adam.gather_state(before)
            self.parameters = [
                Parameter(tensor, name=name)
                for tensor, name in zip(
                    as_tensors(list(map(to_numpy, before.parameters)), self.dtype)[0], SHAPES
                )
            ]
            self.build(layout)
            ms_adam.load_state(self.optimizer, state)
        else:
            copied = (
                copy.deepcopy if by == "deepcopy" else lambda it: pickle.loads(pickle.dumps(it))
            )
            self.optimizer, self.compiled = copied(before), None

    @precondition(lambda self: self.updates and self.options["ema_decay"] is not None)
    @rule()
    def look_at_averages(self):
        with ms_adam.averaged(self.optimizer):
            found = [to_numpy(p).astype(np.float64) for p in self.optimizer.parameters]
        for one, average in zip(found, self.averages):
            self.compare(one, self.average.value(average, self.updates))
        self.look()

    @invariant()
    def look(self):
        for parameter, weight in zip(self.optimizer.parameters, self.weights):
            self.compare(to_numpy(parameter).astype(np.float64), weight)
        assert int(self.optimizer.global_step) == self.steps
        assert int(self.optimizer.update_count) == self.updates
        if self.loss != "plain":
            assert int(self.optimizer.skipped) == self.skipped
        if self.scaler is not None:
            assert float(self.scaler.scale_value) == self.scale

    def compare(self, found, wanted):
        # A weight is rounded in each update, and its average as often; float16 once more.
        relative = 3 * self.updates * 2**-24 + (2**-11 if self.dtype == "float16" else 0)
        assert np.all(np.abs(found - wanted) <= self.allowed + relative * (np.abs(wanted) + 1))


class AnotherMemory(Training):
    """A reference that forgets sooner, which must be found."""

    def update(self):
        self.method = dataclasses.replace(self.method, beta2=0.998)
        super().update()


FEW = settings(
    max_examples=12, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_reference_says_the_same():
    run_state_machine_as_test(Training, settings=FEW)


def test_another_reference_does_not():
    with pytest.raises(AssertionError):
        run_state_machine_as_test(AnotherMemory, settings=settings(FEW, phases=[Phase.generate]))
