"""Adam's state divided over data-parallel ranks: stage 1 of ZeRO (Rajbhandari et al. 2020).

Every rank has the whole gradient, as data-parallel training leaves it. It keeps the moments of its
share of the parameters, updates this share, and is given the others' by their owners:

    owner(w) = this rank:   m, v, w <- Adam(m, v, w, g)
    then, for all w:        w <- w of owner(w)

A parameter belongs to one rank as a whole. So its update is that of an unsharded optimizer, bit for
bit, by whatever backend, and its moments keep their names.

All ranks must send and receive in one order, and in a graph nothing has an order but what follows
from data, and what nobody reads is left out. So every message depends on all gradients, whose own
exchange came before, and on the message before it, and the step count depends on the last one; also
on a rank that reads none of them. A constant would not do: its dependence is dropped.
"""

from typing import NamedTuple, Tuple

import mindspore as ms
import numpy as np
from mindspore import communication, nn, ops
from mindspore.ops import operations as P


_add, _assign = P.Add(), P.Assign()


class Shares(NamedTuple):
    """Who keeps the state of which parameter.

    Attributes:
        owners: of each parameter, the rank that updates it.
        rank: this process.
        ranks: how many there are.
    """

    owners: Tuple[int, ...]
    rank: int
    ranks: int

    @classmethod
    def undivided(cls, count):
        """One process has all of `count` parameters."""
        return cls((0,) * count, 0, 1)

    @classmethod
    def balanced(cls, sizes, rank, ranks):
        """Shares of about equal size.

        The largest parameter first, each to the rank that has least so far, the lowest of equal
        ones: the largest share is then at most 4/3 of the best possible one (Graham 1969, theorem
        2). None is divided: the largest share is no smaller than the largest parameter.

        Args:
            sizes: of each parameter, in elements.
            rank: this process.
            ranks: how many there are.

        Example:
            >>> Shares.balanced([10, 3, 4, 2, 2], rank=0, ranks=2).owners
            (0, 1, 1, 1, 1)
        """
        loads = [0] * ranks
        owners = [0] * len(sizes)
        for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):  # equal ones in their order
            owners[i] = loads.index(min(loads))
            loads[owners[i]] += sizes[i]
        return cls(tuple(owners), rank, ranks)

    @property
    def owned(self):
        """Of each parameter, whether this rank updates it."""
        return tuple(owner == self.rank for owner in self.owners)


def shares_of(owner, parameters):
    """The shares of the ranks of the data-parallel training that this process belongs to.

    Args:
        owner: who asks, for the error message.
        parameters: what is optimized.

    Raises:
        RuntimeError: If MindSpore's communication was not started.
        ValueError: If the training is not data-parallel.
    """
    if not communication.GlobalComm.INITED:
        raise RuntimeError(
            f"For '{owner}', shard_state=True divides the state over the processes of a "
            "data-parallel training, but communication was not started: call "
            "mindspore.communication.init() first, in a script that msrun starts (see "
            "docs/scaling.md).")
    mode = ms.get_auto_parallel_context("parallel_mode")
    if mode not in ("data_parallel", "stand_alone"):
        raise ValueError(f"For '{owner}', shard_state=True is for parallel_mode='data_parallel', in "
                         f"which every rank has all parameters, but got parallel_mode='{mode}'.")
    return Shares.balanced([parameter.size for parameter in parameters],
                           communication.get_rank(), communication.get_group_size())


class Collect(nn.Cell):
    """Puts the ranks' rows one after the other, on every rank.

    One AllGather of rows that are filled up to the longest; or, where this would more than double
    what is sent, as with one large table, one Broadcast from each rank that has anything.

    Args:
        lengths: of each rank's row, in elements.
        rank: this process.

    Inputs:
        row: this rank's, of shape (length,); no constant of a graph.

    Outputs:
        Tensor of all rows.

    Attributes:
        length: of the row that this rank gives, with what fills it up; at least 1.
        begins: where each rank's row begins in what comes out.
    """

    def __init__(self, lengths, rank):
        super().__init__(auto_prefix=False)
        longest = max(lengths)
        self.gathers = longest * len(lengths) <= 2 * sum(lengths)
        sent = [longest] * len(lengths) if self.gathers else lengths
        self.length = max(1, sent[rank])  # an empty tensor can not be given
        self.begins = tuple(int(begin) for begin in np.cumsum([0, *sent[:-1]]))
        self.rank = rank
        self.gather = P.AllGather() if self.gathers else None
        self.roots = tuple(root for root, length in enumerate(lengths) if length)
        self.broadcasts = tuple(P.Broadcast(root) for root in self.roots)
        self.fillers = tuple(P.BroadcastTo((lengths[root],)) for root in self.roots)
        self.concat, self.slice = P.Concat(0), P.Slice()

    def construct(self, row):
        if self.gathers:
            return self.gather(row)
        rows = ()
        for i in range(len(self.roots)):
            if self.roots[i] == self.rank:
                mine = row
            else:
                mine = self.fillers[i](self.slice(row, (0,), (1,)))
            if i > 0:
                mine = ops.depend(mine, rows[i - 1])
            rows += self.broadcasts[i]((mine,))
        return self.concat(rows) if len(rows) > 1 else rows[0]


class Exchange(nn.Cell):
    """Gives every rank the parameters as their owners have updated them, in few large messages.

    Args:
        packings: what `backends.packing_for` says of the parameters.
        parameters: all of them, in the same order on all ranks.
        shares: a `Shares`.

    Inputs:
        step: Parameter of shape (1,): the step count, with which rows are filled up.
        after: tensors that were exchanged before.

    Outputs:
        True.
    """

    def __init__(self, packings, parameters, shares):
        super().__init__(auto_prefix=False)
        self.messages = nn.CellList([
            Message(packing, [parameters[i] for i in members], [shares.owners[i] for i in members],
                    shares)
            for packing, members in packings], auto_prefix=False)
        self.zero = ms.Tensor([0], ms.int32)

    def construct(self, step, after):
        for message in self.messages:
            after = message(step, after)
        _assign(step, ops.depend(_add(step, self.zero), after))
        return True


class Message(nn.Cell):
    """Exchanges parameters that one row can hold.

    Args:
        packing: how parameters get into a row and out of it; a class of `backends.packing`.
        parameters: in the same order on all ranks, none of them empty.
        owners: of each, the rank.
        shares: a `Shares`; rank and count are read.
    """

    def __init__(self, packing, parameters, owners, shares):
        super().__init__(auto_prefix=False)
        lengths, places = [0] * shares.ranks, []
        for parameter, owner in zip(parameters, owners):
            places.append(lengths[owner])
            lengths[owner] += packing.length(parameter)
        self.collect = Collect(lengths, shares.rank)
        mine = [i for i, owner in enumerate(owners) if owner == shares.rank]
        others = [i for i, owner in enumerate(owners) if owner != shares.rank]
        self.pack = packing.pack([parameters[i] for i in mine], self.collect.length)
        self.unpack = packing.unpack(
            [parameters[i] for i in others],
            [self.collect.begins[owners[i]] + places[i] for i in others])

    def construct(self, filler, after):
        rows = self.collect(ops.depend(self.pack(filler), after))
        self.unpack(rows)
        return rows
