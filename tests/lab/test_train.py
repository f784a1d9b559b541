"""The training loop and its step: the same numbers in both modes, and what observers see."""

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

import ms_adam
from ms_adam.lab.observers import Record, flat, loss
from ms_adam.lab.problems.batches import Batches
from ms_adam.lab.problems.networks import MultiLayerPerceptron, held_out
from ms_adam.lab.train import EndOfTraining, TrainStep, fused_loss, train

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.standard_normal((12, 3)).astype(np.float32)
TARGETS = RANDOM.integers(0, 2, 12).astype(np.int32)
BATCHES = Batches((INPUTS, TARGETS), 4, seed=0)


def made(**options):
    model = MultiLayerPerceptron([3, 5, 2], seed=0)
    optimizer = ms_adam.Adam(model.trainable_params(), 0.1)
    return model, optimizer, TrainStep(model, optimizer, fused_loss(), **options)


def test_losses_fall_and_modes_agree(mode):
    _, _, step = made()
    record = Record(loss)
    assert train(step, BATCHES.steps(0, 9), [record]) == 9
    losses = record.arrays()["loss"]
    assert losses[-1] < losses[0]
    # The first loss is that of the first weights, before any update.
    (inputs, targets), model = next(BATCHES.steps()), made()[0]
    assert losses[0] == fused_loss()(model(Tensor(inputs)), Tensor(targets)).asnumpy()


def test_observers_see_each_step_and_can_end_the_training(mode):
    seen = []

    def end(step):
        seen.append(step)
        if step.number == 5:
            raise EndOfTraining

    assert train(made()[2], BATCHES.steps(), [end], first=2) == 5
    assert [step.number for step in seen] == [3, 4, 5]
    for step, batch in zip(seen, BATCHES.steps()):
        assert all(np.array_equal(*pair) for pair in zip(step.batch, batch))
        assert step.loss.dtype == np.float32 and step.gradients is None and step.seconds > 0


def test_gradients_are_those_of_the_update(mode):
    model, optimizer, step = made(with_gradients=True)
    other = MultiLayerPerceptron([3, 5, 2], seed=0)
    parameters = mindspore.ParameterTuple(other.trainable_params())
    gradients_only = TrainStep(other, None, fused_loss(), parameters=parameters)
    before = flat(other.trainable_params())
    found = []
    for one in (step, gradients_only):
        train(one, BATCHES.steps(0, 1), [lambda step: found.append(flat(step.gradients))])
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(flat(other.trainable_params()), before)
    moved = flat(model.trainable_params()) != before
    np.testing.assert_array_equal(moved, found[0] != 0)


class Doubled(nn.Cell):
    def construct(self, gradients):
        return tuple(2 * gradient for gradient in gradients)


def test_a_reducer_comes_before_the_update(mode):
    found, moments = [], []
    for options in ({}, {"reducer": Doubled()}):
        _, optimizer, step = made(with_gradients=True, **options)
        train(step, BATCHES.steps(0, 1), [lambda step: found.append(flat(step.gradients))])
        moments.append(flat(optimizer.moment1))
    np.testing.assert_array_equal(2 * found[0], found[1])
    np.testing.assert_allclose(2 * moments[0], moments[1], rtol=1e-6)


def test_a_follower_is_given_the_same_gradients(mode):
    same = MultiLayerPerceptron([3, 5, 2], seed=0).trainable_params()
    own = [Parameter(Tensor(p.asnumpy()), name=f"own.{p.name}") for p in same]
    model, _, step = made(follower=ms_adam.Adam(own, 0.1))
    train(step, BATCHES.steps(0, 5), [])
    np.testing.assert_array_equal(flat(own), flat(model.trainable_params()))


class Cost(nn.Cell):
    """Its own loss, of a batch of three arrays."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor(np.ones(3, np.float32)), name="weight")

    def construct(self, inputs, targets, mask):
        return (ops.square((inputs * self.weight).sum(axis=1) - targets) * mask).mean()


def test_a_model_can_be_its_own_loss_and_a_generator_can_act_before_each_step(mode):
    model = Cost()
    optimizer = ms_adam.Adam(model.trainable_params(), 0.1)
    seen = []

    def batches():
        for rate in (0.1, 0.0, 0.1, 0.0):
            optimizer.learning_rate.set_data(Tensor(rate, mindspore.float32))
            yield INPUTS[:4], TARGETS[:4].astype(np.float32), np.ones(4, np.float32)

    train(TrainStep(model, optimizer), batches(), [lambda step: seen.append(float(step.loss))])
    assert seen[0] > seen[1] == seen[2] > seen[3]


def test_loss_and_accuracy_of_held_out_examples():
    logits = np.float32([[2, 1], [0, 3], [1, 5]])
    found = held_out(lambda given: given, [logits], np.array([0, 1, 0]))
    losses = np.log1p(np.exp([-1.0, -3.0, 4.0]))  # of the other logit less that of the label
    assert found["test_accuracy"] == 2 / 3
    np.testing.assert_allclose(found["test_loss"], losses.mean(), rtol=1e-14)
