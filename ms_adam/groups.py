"""What differs between parameters: which learning rate, which weight decay, and which switches.

`nn.Optimizer` keeps one learning rate and one weight decay for each parameter, though all
parameters of a group share them. Here each distinct pair is a group, computed once a step.
"""

from typing import NamedTuple, Optional, Tuple

from mindspore import Tensor, nn
from mindspore.nn.optim.optimizer import _ConvertToCell


class Groups(NamedTuple):
    """One entry for each parameter.

    Attributes:
        index: which group the parameter is in.
        decayed: whether weight decay acts on it.
        centralized: whether its gradient is centralized.
        owned: which elements this process updates, (begin, size) with `begin` and `size` at rows; None
            if it updates none. All of them, but with `shard_state`.
    """

    index: Tuple[int, ...]
    decayed: Tuple[bool, ...]
    centralized: Tuple[bool, ...]
    owned: Tuple[Optional[Tuple[int, int]], ...]


class GroupValues(nn.Cell):
    """The learning rate and the weight decay of each group in one step.

    Args:
        learning_rates: one for each group, each a Parameter or a schedule.
        weight_decays: one for each group, each a Tensor or a Cell.

    Inputs:
        done: int32 tensor of shape (1,), the number of steps already made.

    Outputs:
        Two tuples of float32 tensors of shape (), as long as there are groups.
    """

    def __init__(self, learning_rates, weight_decays):
        super().__init__(auto_prefix=False)
        # Cells all of them: graphs of MindSpore 2.7 hold no list of cells and tensors.
        self.learning_rates = _values(learning_rates)
        self.weight_decays = _values(weight_decays)

    def construct(self, done):
        learning_rates, weight_decays = (), ()
        for rate in self.learning_rates:
            learning_rates += (rate(done),)
        for decay in self.weight_decays:
            weight_decays += (decay(done),)
        return learning_rates, weight_decays


def _values(sources):
    return nn.CellList([Scheduled(source) if isinstance(source, nn.Cell) else Fixed(source)
                        for source in sources], auto_prefix=False)


class Fixed(nn.Cell):
    """A value that is the same in every step, until somebody assigns another one."""

    def __init__(self, value):
        super().__init__(auto_prefix=False)
        self.value = value

    def construct(self, done):
        return self.value


class Scheduled(nn.Cell):
    """A value that a schedule gives for the number of steps made."""

    def __init__(self, schedule):
        super().__init__(auto_prefix=False)
        self.schedule = schedule

    def construct(self, done):
        return self.schedule(done).reshape(())


def split(optimizer, owned):
    """Reads the groups off what `nn.Optimizer` made of its arguments.

    Args:
        optimizer: an `nn.Optimizer` whose loss scale is 1, after its `__init__`.
        owned: as in `Groups`.

    Returns:
        A `Groups` and a `GroupValues`.
    """
    count = len(optimizer.parameters)
    rates = (tuple(optimizer.learning_rate) if optimizer.is_group_lr
             else (optimizer.learning_rate,) * count)
    rates = tuple(_fixed(rate) for rate in rates)
    decays = (tuple(optimizer.weight_decay) if optimizer.is_group
              else (optimizer.weight_decay,) * count)
    members = {}
    index = []
    for rate, decay in zip(rates, decays):
        key = (id(rate), float(decay) if isinstance(decay, Tensor) else id(decay))
        members.setdefault(key, (len(members), rate, decay))
        index.append(members[key][0])
    values = GroupValues(tuple(rate for _, rate, _ in members.values()),
                         tuple(decay for _, _, decay in members.values()))
    groups = Groups(
        index=tuple(index),
        decayed=tuple(flag and optimizer.exec_weight_decay for flag in optimizer.decay_flags),
        centralized=(optimizer.grad_centralization_flags if optimizer.is_group
                     else (False,) * count),
        owned=tuple(owned))
    return groups, values


def _fixed(rate):
    """A fixed rate beside schedules as the Parameter that it is.

    MindSpore wraps it in a schedule that returns rate + 1.0 - 1.0 in float32: 0.05 is then off by
    1e-6 of itself.
    """
    return rate.learning_rate if isinstance(rate, _ConvertToCell) else rate
