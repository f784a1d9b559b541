"""Costs and noise of the paper's networks, against NumPy in float64."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from scipy.special import expit, log_softmax

from ms_adam.lab.problems import networks
from ms_adam.lab.targets import mindspore_context


@pytest.fixture(autouse=True)
def graph():
    with mindspore_context(mode=ms.GRAPH_MODE):
        yield


def with_weights(network, seed=0):
    random = np.random.default_rng(seed)
    values = [0.3 * random.standard_normal(p.shape) for p in network.trainable_params()]
    for parameter, value in zip(network.trainable_params(), values):
        parameter.set_data(Tensor(value.astype(np.float32)))
    return [value.astype(np.float32).astype(np.float64) for value in values]


def cost(network, *batch):
    return network(*map(Tensor, batch)).asnumpy()


def softplus(x):
    return np.logaddexp(0, x)


def cross_entropy(logits, labels):
    return -np.mean(log_softmax(logits, axis=1)[np.arange(len(labels)), labels])


@pytest.mark.parametrize("channels", [3, 1])  # 3 x 5 rows to move before the product, or 5 x 5
def test_a_convolution_is_that_of_mindspore(channels):
    ours = networks.Convolution(channels, 6, 5)
    theirs = nn.Conv2d(channels, 6, 5, pad_mode="same", has_bias=True)
    assert ours.all_before == (channels == 1)
    weight, bias = with_weights(ours)
    theirs.weight.set_data(Tensor(weight.reshape(6, channels, 5, 5).astype(np.float32)))
    theirs.bias.set_data(Tensor(bias.ravel().astype(np.float32)))
    images = np.random.default_rng(1).standard_normal((channels, 7, 2, 6)).astype(np.float32)
    found = ours(Tensor(images)).asnumpy().transpose(2, 0, 1, 3)
    wanted = theirs(Tensor(images.transpose(2, 0, 1, 3).copy())).asnumpy()
    # 76 terms of size up to 3: each product and sum rounded once, at 2^-24 of the sum of sizes
    assert np.abs(found - wanted).max() <= 76 * 2**-24 * 20


def test_cross_entropy_of_logits_far_apart_is_finite():
    network = networks.ImageLogistic(1, 2, 0.0)
    network.layers[0].weight.set_data(Tensor(np.array([[0.0], [300.0]], np.float32)))
    network.layers[0].bias.set_data(Tensor(np.zeros(2, np.float32)))
    assert cost(network, np.ones((1, 1), np.float32), np.zeros(1, np.int32)) == pytest.approx(300)


def test_the_cost_of_a_bag_is_that_of_a_dense_vector():
    network = networks.TextLogistic(6, 0.5, 0.1)
    table, bias = with_weights(network)
    words = np.array([[1, 3, 0], [2, 4, 5]], np.int32)
    labels = np.array([1, 0], np.float32)
    (mask,) = network.noise(np.random.default_rng(0), (words, labels))
    assert mask[0, 2] == 0  # padding is no word
    dense = np.zeros((2, 6))
    for row in range(2):
        np.add.at(dense[row], words[row], mask[row])
    logits = dense @ table + bias
    wanted = np.mean(softplus(-logits * (2 * labels - 1))) + 0.05 * np.sum(table**2)
    assert cost(network, words, labels, mask) == pytest.approx(wanted, rel=1e-6)


def test_a_perceptron_with_dropout_and_l2():
    network = networks.PaperPerceptron([5, 4, 3], 0.2, 0.5, 0.1)
    w1, b1, w2, b2 = with_weights(network)
    random = np.random.default_rng(3)
    images = random.random((6, 5), dtype=np.float32)
    labels = np.array([0, 1, 2, 0, 1, 2], np.int32)
    masks = network.noise(random, (images, labels))
    assert [mask.shape for mask in masks] == [(6, 5), (6, 4)]
    hidden = np.maximum((images * masks[0]) @ w1.T + b1, 0) * masks[1]
    wanted = cross_entropy(hidden @ w2.T + b2, labels) + 0.05 * (np.sum(w1**2) + np.sum(w2**2))
    assert cost(network, images, labels, *masks) == pytest.approx(wanted, rel=1e-5)


def test_the_auto_encoder_gives_the_evidence_bound():
    network = networks.AutoEncoder(6, 5, 2)
    values = dict(zip([p.name for p in network.trainable_params()], with_weights(network)))
    random = np.random.default_rng(4)
    images = (random.random((3, 6)) > 0.5).astype(np.float32)
    (normal,) = network.noise(random, (images,))

    def dense(name, x):
        return x @ values[f"{name}.weight"].T + values[f"{name}.bias"]

    units = softplus(dense("encoder", images))
    mean, log_variance = dense("mean", units), dense("log_variance", units)
    sample = mean + np.exp(log_variance / 2) * normal
    p = expit(dense("out", softplus(dense("decoder", sample))))
    likelihood = np.sum(images * np.log(p) + (1 - images) * np.log(1 - p), axis=1)
    divergence = 0.5 * np.sum(np.exp(log_variance) + mean**2 - 1 - log_variance, axis=1)
    wanted = np.mean(divergence - likelihood)
    assert cost(network, images, normal) == pytest.approx(wanted, rel=1e-5)


def test_the_convolution_network_has_the_papers_shape():
    network = networks.ConvolutionNetwork((1, 28, 28), 10, (64, 64, 128), 1000, 0.2, 0.5)
    shapes = [p.shape for p in network.trainable_params() if p.ndim > 1 and "bias" not in p.name]
    # 28 -> 14 -> 7 -> 4 by pooling of stride 2
    assert shapes == [(64, 25), (64, 1600), (128, 1600), (1000, 128 * 16), (10, 1000)]


def test_dropout_keeps_the_mean():
    mask = networks.dropout_mask(np.random.default_rng(0), (1000, 1000), 0.2)
    assert set(np.unique(mask)) == {np.float32(0), np.float32(1.25)}
    assert np.mean(mask == 0) == pytest.approx(0.2, abs=0.002)  # 5 standard deviations


def test_first_weights_have_the_variance_of_he():
    network = networks.ConvolutionNetwork((1, 8, 8), 10, (16,), 200, 0.0, 0.0)
    first = network.first_weights(np.random.default_rng(0))
    for parameter, value in zip(network.trainable_params(), first):
        if "bias" in parameter.name:
            assert not value.any()
        else:  # some 400 to 51,200 numbers: the variance is off by sqrt(2 / n), at most 7%
            assert np.var(value) == pytest.approx(2 / parameter.shape[1], rel=0.3)
