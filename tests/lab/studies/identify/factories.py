"""Callables that return optimizers, in all the ways people write them, and some that do not.

Where it does not matter which, it is one of ours, which takes half of the time to identify.
"""

import functools

from mindspore import nn

import ms_adam
from ms_adam import reference

by_hat = functools.partial(ms_adam.Adam, epsilon_hat=True)


class Chosen:
    """No optimizer itself: __new__ returns one of two others."""

    def __new__(cls, params, learning_rate=1e-3, eps=1e-8, weight_decay=0.0, adamw=False):
        made = ms_adam.AdamW if adamw else by_hat
        return made(params, learning_rate, eps=eps, weight_decay=weight_decay)


class Holder:
    """For paths that go further in."""

    Chosen = Chosen

    @staticmethod
    def make(params):
        return ms_adam.Adam(params, epsilon_hat=True)


class _Meta(type):
    def __call__(cls, params, learning_rate=1e-3):
        return ms_adam.Adam(params, learning_rate, epsilon_hat=True)


class ByMetaclass(metaclass=_Meta):
    """No optimizer itself: its metaclass returns one."""


class Counted(nn.Adam):
    """An optimizer whose __new__ hands on all that it gets."""

    made = 0

    def __new__(cls, *args, **kwargs):
        cls.made += 1
        return super().__new__(cls)


def with_groups(params, learning_rate=1e-3, weight_decay=0.0):
    groups = [{"params": list(params), "weight_decay": weight_decay}]
    return ms_adam.AdamW(groups, learning_rate)


def handed_on(*args, **kwargs):
    return by_hat(*args, **kwargs)


def by_position(weights, /, learning_rate=1e-3):
    return ms_adam.Adam(weights, learning_rate, epsilon_hat=True)


def fixed_decay(params):
    return ms_adam.AdamW(params, weight_decay=0.01)


def imports_late(params):
    from mindspore.experimental import optim

    return optim.AdamW(params, weight_decay=0.0)


of_theirs = functools.partial(nn.Adam, eps=1e-6)
of_class = functools.partial(ms_adam.Adam, eps=1e-6, epsilon_hat=True)
of_function = functools.partial(with_groups, weight_decay=0.01)
of_reference = functools.partial(reference.Adam, epsilon="hat")


class _Callable:
    def __call__(self, params):
        return ms_adam.Adam(params, epsilon_hat=True)


callable_object = _Callable()


class ReturnsNone:
    def __new__(cls, params):
        return None


def returns_class(params):
    return nn.Adam


def returns_cell(params):
    return nn.Dense(2, 2)


def returns_pair(params):
    return nn.Adam(params), 1


def returns_nothing_to_step(rate=0.1):
    return {"rate": rate}


def needs_steps(params, steps):
    return nn.Adam(params)
