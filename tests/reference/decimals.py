"""The same methods once more, by other means: 50 decimal digits, and no recursion for the moments.

A moving average is written as the sum that it stands for (Kingma & Ba 2015, equation 1),

    (1 - beta) * sum over i of beta^(t - i) * value_i,

and its correction as the same sum over ones. Each function takes one element's start and gradients
and all the numbers of the method, and yields the element after each step.

How near float64 must come. Let u = 2^-53. The moments average at most T values, each rounded three
times a step: relative errors of 3uT in the second and, against the largest gradient G, 3uT in the
first. The root halves, the update rounds 8 times more, and dividing by a root of at least the
smallest gradient S makes at most learning_rate * G / S * u * (4.5 T + 8) of it; adding it to a
weight of size W one more u * W. With T = 20, G / S = 4, learning rates up to 0.1 and W = 2 that is,
over all T steps, 20 * 1.1e-16 * (0.1 * 4 * 98 + 2) = 1e-13. TOLERANCE leaves a factor of 10 for
what decay and the sums of momentum make of errors already in the weights.
"""

from dataclasses import asdict
from decimal import Decimal, localcontext

import numpy as np

from ms_adam import reference

TOLERANCE = 1e-12

# 20 steps of a 2 x 3 parameter. Gradients are multiples of 1/64 from 1/2 to 2 in size: exact in
# both arithmetics. Signs and sizes change from step to step.
START = np.array([[1.0, -0.5, 0.0], [0.25, -2.0, 0.125]])
GRADIENTS = [
    np.array(
        [
            [
                (-1) ** (step * i // 3) * ((37 * step + 23 * i + 11 * j) % 97 + 32) / 64
                for i in range(3)
            ]
            for j in range(2)
        ]
    )
    for step in range(20)
]


def decayed_sum(beta, values):
    """Sum of beta^age * value; the last value has age 0."""
    return sum((beta**age if age else 1) * value for age, value in enumerate(reversed(values)))


def average(beta, values):
    return (1 - beta) * decayed_sum(beta, values)


def adam(
    w,
    gradients,
    *,
    learning_rate,
    beta1,
    beta2,
    eps,
    epsilon,
    bias_correction,
    nesterov,
    amsgrad,
    weight_decay,
    decoupled,
    loss_scale,
    maximize,
    centralize,
):
    seen, second_moments = [], []
    for gradient in gradients:
        rising = -gradient if maximize else gradient
        seen.append(rising / loss_scale + (0 if decoupled else weight_decay * w))
        m, v = average(beta1, seen), average(beta2, [g * g for g in seen])
        second_moments.append(v)
        if nesterov:
            m = beta1 * m + (1 - beta1) * seen[-1]
        if amsgrad:
            v = max(second_moments)
        c1 = average(beta1, [1] * len(seen)) if bias_correction else 1
        c2 = average(beta2, [1] * len(seen)) if bias_correction else Decimal(1)
        step = {
            "outside": m / c1 / ((v / c2).sqrt() + eps),
            "inside": m / c1 / (v / c2 + eps).sqrt(),
            "hat": c2.sqrt() / c1 * m / (v.sqrt() + eps),
        }[epsilon]
        w = w - learning_rate * step - (learning_rate * weight_decay * w if decoupled else 0)
        yield w


def adamax(
    w,
    gradients,
    *,
    learning_rate,
    beta1,
    beta2,
    eps,
    weight_decay,
    loss_scale,
    maximize,
    centralize,
):
    """With the maximum that u stands for (Kingma & Ba 2015, section 7.1)."""
    seen = []
    for gradient in gradients:
        seen.append((-gradient if maximize else gradient) / loss_scale + weight_decay * w)
        m, c1 = average(beta1, seen), average(beta1, [1] * len(seen))
        u = max(beta2**age * abs(g) for age, g in enumerate(reversed(seen)))
        w = w - learning_rate * m / c1 / (u + eps)
        yield w


def sgd(w, gradients, *, learning_rate):
    for t in range(1, len(gradients) + 1):
        yield w - learning_rate * sum(gradients[:t])


def momentum(w, gradients, *, learning_rate, rho, form, bias_correction):
    for t in range(1, len(gradients) + 1):
        velocity = decayed_sum(rho, gradients[:t])
        if bias_correction:
            velocity = velocity / decayed_sum(rho, [1] * t)
        elif form == "ema":
            velocity = (1 - rho) * velocity
        w = w - learning_rate * velocity
        yield w


def nesterov(w, gradients, *, learning_rate, rho, form):
    for t in range(1, len(gradients) + 1):
        velocity = decayed_sum(rho, gradients[:t])
        w = w - learning_rate * (gradients[t - 1] + rho * velocity if form == "torch" else velocity)
        yield w


def adagrad(w, gradients, *, learning_rate, eps, epsilon, initial_accumulator):
    for t in range(1, len(gradients) + 1):
        s = initial_accumulator + sum(g * g for g in gradients[:t])
        w = w - learning_rate * gradients[t - 1] / divisor(s, eps, epsilon)
        yield w


def rmsprop(w, gradients, *, learning_rate, beta, eps, epsilon, centered, initial_mean_square):
    for t in range(1, len(gradients) + 1):
        seen = gradients[:t]
        s = initial_mean_square * beta**t + average(beta, [g * g for g in seen])
        if centered:
            s = s - average(beta, seen) ** 2
        w = w - learning_rate * gradients[t - 1] / divisor(s, eps, epsilon)
        yield w


def divisor(s, eps, epsilon):
    return {"outside": s.sqrt() + eps, "inside": (s + eps).sqrt()}[epsilon]


FUNCTIONS = {
    "Adam": adam,
    "AdaMax": adamax,
    "SGD": sgd,
    "Momentum": momentum,
    "Nesterov": nesterov,
    "AdaGrad": adagrad,
    "RMSProp": rmsprop,
}


def decimal_path(method):
    """The parameter after each step, correctly rounded from 50 digits: shape (20, 2, 3)."""
    with localcontext() as context:
        context.prec = 50
        numbers = {
            name: Decimal(value) if isinstance(value, float) else value
            for name, value in asdict(method).items()
        }
        gradients = np.array([[[Decimal(g) for g in row] for row in step] for step in GRADIENTS])
        if numbers.get("centralize"):  # before the decay, which cases with both must not have
            assert not numbers["weight_decay"]
            gradients = gradients - gradients.sum(axis=2, keepdims=True) / gradients.shape[2]
        follow = FUNCTIONS[type(method).__name__]
        path = [
            [
                list(follow(Decimal(START[j, i]), list(gradients[:, j, i]), **numbers))
                for i in range(3)
            ]
            for j in range(2)
        ]
    return np.array(path, dtype=np.float64).transpose(2, 0, 1)


def float64_path(method):
    """The parameter after each step, from the package: shape (20, 2, 3)."""
    w, state, path = START, method.init(START), []
    for gradient in GRADIENTS:
        w, state = method.step(w, gradient, state)
        path.append(w)
    return np.array(path)


def distance(method, path):
    """How far a method goes from a path, at most."""
    return np.max(np.abs(float64_path(method) - path))


CASES = [
    reference.Adam(),
    reference.Adam(0.1),
    reference.Adam(0.1, eps=0.01),
    reference.Adam(0.1, eps=0.01, epsilon="hat"),
    reference.Adam(0.1, eps=0.01, epsilon="inside"),
    reference.Adam(0.1, eps=0.01, beta1=0.0, beta2=0.0),
    reference.Adam(0.1, beta1=0.5, beta2=0.99999),
    reference.Adam(0.01, bias_correction=False),
    reference.Adam(0.1, nesterov=True),
    reference.Adam(0.1, beta2=0.5, amsgrad=True),
    reference.Adam(0.1, beta2=0.5, amsgrad=True, nesterov=True, epsilon="hat"),
    reference.Adam(0.1, weight_decay=0.1, loss_scale=3.0),
    reference.Adam(0.1, weight_decay=0.1, maximize=True),
    reference.Adam(0.1, weight_decay=0.1, loss_scale=3.0, decoupled=True),
    reference.Adam(0.1, centralize=True, eps=0.01),
    reference.AdaMax(0.1),
    reference.AdaMax(0.1, beta2=0.5, eps=0.01),
    reference.AdaMax(0.1, weight_decay=0.1, loss_scale=3.0),
    reference.AdaMax(0.1, weight_decay=0.1, maximize=True),
    reference.AdaMax(0.1, beta1=0.5, centralize=True, eps=0.01),
    reference.SGD(),
    reference.Momentum(0.1),
    reference.Momentum(0.1, form="scaled"),
    reference.Momentum(0.1, form="ema"),
    reference.Momentum(0.1, form="ema", bias_correction=True),
    reference.Nesterov(0.1),
    reference.Nesterov(0.1, form="sutskever"),
    reference.AdaGrad(0.1, eps=0.01),
    reference.AdaGrad(0.1, eps=0.01, epsilon="inside"),
    reference.AdaGrad(0.1, eps=0.0, initial_accumulator=0.1),
    reference.RMSProp(0.1, eps=0.01),
    reference.RMSProp(0.1, eps=0.01, epsilon="inside", initial_mean_square=1.0),
    reference.RMSProp(0.1, eps=0.01, centered=True),
    reference.RMSProp(0.1, eps=0.01, epsilon="inside", centered=True),
]
