"""Adam's state divided over data-parallel ranks: stage 1 of ZeRO (Rajbhandari et al. 2020).

Every rank has the whole gradient, as data-parallel training leaves it. It keeps the moments of its
share of the parameters, updates this share, and receives the other shares from their owners:

    owner(w) = this rank:   m, v, w <- Adam(m, v, w, g)
    then, for all w:        w <- w of owner(w)

A share consists of whole rows, so an update has all it needs on one rank, and its bits are those of
an unsharded optimizer.

All ranks must send and receive in one order. In a graph only data dependences order operations, and
results that nobody reads are left out. So every message depends on all gradients, whose own
exchange came before, and on the message before it, and the step count depends on the last message,
also on a rank that reads none of them. A constant would not do: its dependence is dropped.
"""

from typing import NamedTuple, Sequence, Tuple

import mindspore as ms
import numpy as np
from mindspore import communication, nn, ops
from mindspore.ops import operations as P

from ms_adam.compat import HAS_SHARDING, RELEASE
from ms_adam.state import Owned

Shape = Tuple[int, ...]
_add, _assign = P.Add(), P.Assign()


class Piece(NamedTuple):
    """Whole rows of a parameter that one rank keeps and updates.

    Attributes:
        begin, size: of its elements.
    """

    owner: int
    begin: int
    size: int


class Shares(NamedTuple):
    """The owners of the state of all parameters.

    Attributes:
        pieces: the pieces of each parameter, in order.
    """

    pieces: Tuple[Tuple[Piece, ...], ...]
    rank: int
    ranks: int

    @classmethod
    def by_rows(cls, shapes: Sequence[Shape], rank: int, ranks: int) -> "Shares":
        """Returns shares that differ by less than a row: all elements in order, cut equally.

        Args:
            shapes: of each parameter; a row is an element of the first axis.

        Example:
            >>> Shares.by_rows([(3, 2), (2,)], rank=0, ranks=2).pieces
            ((Piece(owner=0, begin=0, size=4), Piece(owner=1, begin=4, size=2)), \
(Piece(owner=1, begin=0, size=2),))
        """
        total = sum(int(np.prod(shape)) for shape in shapes)
        pieces, before = [], 0
        for shape in shapes:
            size = int(np.prod(shape))
            row = size // shape[0] if shape and size else 1
            # Where the ranks' shares would end, counted from here, at the nearest row.
            ends = [
                (2 * (total * (r + 1) - ranks * before) + ranks * row) // (2 * ranks * row) * row
                for r in range(ranks)
            ]
            ends = [min(max(end, 0), size) for end in ends[:-1]] + [size]
            own = [
                Piece(r, begin, end - begin)
                for r, (begin, end) in enumerate(zip([0, *ends], ends))
                if end > begin
            ]
            pieces.append(tuple(own) or (Piece(0, 0, 0),))
            before += size
        return cls(tuple(pieces), rank, ranks)

    @classmethod
    def by_parameters(cls, shapes: Sequence[Shape], rank: int, ranks: int) -> "Shares":
        """Returns shares of whole parameters.

        The largest parameter goes first, each to the rank with the least so far, the lowest of
        equals. The largest share is then at most 4/3 of the best possible one (Graham 1969, theorem
        2), and no smaller than the largest parameter. Arguments are those of `by_rows`.

        Example:
            >>> pieces = Shares.by_parameters([(10,), (3,), (4,), (2, 2)], rank=0, ranks=2).pieces
            >>> [piece.owner for (piece,) in pieces]
            [0, 1, 1, 1]
        """
        sizes = [int(np.prod(shape)) for shape in shapes]
        loads, owners = [0] * ranks, [0] * len(sizes)
        for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):  # equal ones in their order
            owners[i] = loads.index(min(loads))
            loads[owners[i]] += sizes[i]
        return cls(
            tuple((Piece(owner, 0, size),) for owner, size in zip(owners, sizes)), rank, ranks
        )

    @property
    def owned(self) -> Tuple[Owned, ...]:
        """For each parameter, (begin, size) of the elements that this rank keeps, or None."""
        return tuple(
            next(((piece.begin, piece.size) for piece in pieces if piece.owner == self.rank), None)
            for pieces in self.pieces
        )


def shares_of(class_name: str, parameters: Sequence[ms.Parameter], by_rows: bool) -> Shares:
    """Returns the shares in the data-parallel training that this process belongs to.

    Args:
        by_rows: whether parameters may be divided.

    Raises:
        NotImplementedError: If this release of MindSpore has no shards.
        RuntimeError: If MindSpore's communication was not started.
        ValueError: If the training is not data-parallel.
    """
    if not HAS_SHARDING:
        raise NotImplementedError(
            f"For '{class_name}', shard_state=True needs MindSpore 2.7 or newer, but this is "
            f"{RELEASE}."
        )
    if not communication.GlobalComm.INITED:
        raise RuntimeError(
            f"For '{class_name}', shard_state=True divides the state over the processes of a "
            "data-parallel training, but communication was not started: call "
            "mindspore.communication.init() first, in a script that msrun starts (see "
            "docs/scaling.md)."
        )
    mode = ms.get_auto_parallel_context("parallel_mode")
    if mode not in ("data_parallel", "stand_alone"):
        raise ValueError(
            f"For '{class_name}', shard_state=True is for parallel_mode='data_parallel', in "
            f"which every rank has all parameters, but got parallel_mode='{mode}'."
        )
    divide = Shares.by_rows if by_rows else Shares.by_parameters
    return divide(
        [parameter.shape for parameter in parameters],
        communication.get_rank(),
        communication.get_group_size(),
    )


def undivided(parameters: Sequence[ms.Parameter]) -> Shares:
    """Returns the shares of one process that keeps everything."""
    return Shares.by_parameters([parameter.shape for parameter in parameters], 0, 1)


class Collect(nn.Cell):
    """Concatenates the rows of all ranks, on every rank.

    One AllGather of rows, padded to the longest; or, where padding would more than double the
    traffic, as with one large table, one Broadcast from each rank that has a row.

    Args:
        pieces: of each thing that is sent, its pieces.
        length: maps the place of a thing and a number of its elements to a length in the row.

    Inputs:
        row: this rank's, of shape (length,); no constant of a graph.

    Outputs:
        Tensor of all rows.

    Attributes:
        length: of the row of this rank, with padding; at least 1.
        mine: (place of the thing, begin, size, begin in the row) of this rank's pieces.
        others: the same of all other pieces, with their begin in the output.
    """

    def __init__(self, pieces, length, shares):
        super().__init__(auto_prefix=False)
        lengths, placed, rank = [0] * shares.ranks, [], shares.rank
        for i, of_one in enumerate(pieces):
            for owner, begin, size in of_one:
                placed.append((owner, (i, begin, size, lengths[owner])))
                lengths[owner] += length(i, size)
        longest = max(lengths)
        self.gathers = longest * len(lengths) <= 2 * sum(lengths)
        sent = [longest] * len(lengths) if self.gathers else lengths
        self.length = max(1, sent[rank])  # an empty tensor cannot be sent
        begins = np.cumsum([0, *sent])
        self.mine = tuple(piece for owner, piece in placed if owner == rank)
        self.others = tuple(
            (*piece, int(begins[owner]) + at) for owner, (*piece, at) in placed if owner != rank
        )
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
    """Sends the parameters from their owners to all ranks, in few large messages.

    Args:
        packings: of `backends.packing_for`.
        parameters: all of them, in the same order on all ranks.

    Inputs:
        step: Parameter of shape (1,): the step count, with which rows are padded.
        after: tensors that were exchanged before.

    Outputs:
        True.
    """

    def __init__(self, packings, parameters, shares):
        super().__init__(auto_prefix=False)
        members = [
            (packing, [parameters[i] for i in places], [shares.pieces[i] for i in places])
            for packing, places in packings
        ]
        self.messages = nn.CellList([Message(*each, shares) for each in members], auto_prefix=False)
        self.zero = ms.Tensor([0], ms.int32)

    def construct(self, step, after):
        for message in self.messages:
            after = message(step, after)
        _assign(step, ops.depend(_add(step, self.zero), after))
        return True

    def now(self):
        """Does the same at once, after a step that was launched by address.

        All gradients were exchanged before that step, and each message is received before the next
        one is sent.
        """
        for message in self.messages:
            message.now()


class Message(nn.Cell):
    """Exchanges the parameters of one row.

    Args:
        packing: how parameters get into a row and out of it; of `backends.packing`.
        parameters: in the same order on all ranks, none of them empty.
        pieces: of each, its pieces.
    """

    def __init__(self, packing, parameters, pieces, shares):
        super().__init__(auto_prefix=False)
        self.collect = Collect(pieces, lambda i, n: packing.length(parameters[i], n), shares)
        self.pack = packing.pack(parameters, self.collect.mine, self.collect.length)
        self.unpack = packing.unpack(parameters, self.collect.others)

    def construct(self, step, after):
        rows = self.collect(ops.depend(self.pack(step), after))
        self.unpack(rows)
        return rows

    def now(self):
        self.unpack.now(self.collect(self.pack.now()))
