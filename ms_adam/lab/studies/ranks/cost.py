"""The cost of data-parallel training against the number of ranks N and of parameters P.

Float32 parameters and gradients (4 bytes), two float32 moments (8 bytes). Messages go around a ring
(Patarasuk & Yuan 2009): an AllReduce of n bytes is 2 (N - 1) hops and sends 2 n (N - 1) / N bytes
from each rank; an AllGather of n bytes in all is half of both.

    state of a rank     8 P                 whole
                        8 P / N             sharded
    sent by a rank      8 P (N - 1) / N     gradients
                        4 P (N - 1) / N     parameters, if the state is sharded
    step                gradients of B / N examples
                        + messages of gradients + update of 28 P bytes of memory, P / N if sharded
                        + one message of parameters, if sharded

Ranks on one machine share its cores and its memory. The gradients of the whole batch take as long
as in one process, which has all cores. The update's bytes are those of all ranks together. Where
there are more ranks than cores, each waits for the turns of the others, so a message takes
N / cores times as long.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

PARAMETER_BYTES, STATE_BYTES, UPDATE_BYTES = 4, 8, 28


class Wire(NamedTuple):
    """The speed of messages."""

    hop: float  # seconds for an empty message from one rank to the next
    byte: float  # seconds for a byte
    cores: Optional[int] = None  # of the machine that the ranks share; None if each has its own

    def all_reduce(self, size: float, ranks: int) -> float:
        """Returns the seconds for the sum of `size` bytes from each rank."""
        return 2 * self.all_gather(size, ranks)

    def all_gather(self, size: float, ranks: int) -> float:
        """Returns the seconds until each rank has the `size` bytes that all have in parts."""
        waiting = max(1.0, ranks / self.cores) if self.cores else 1.0
        alone = (ranks - 1) * self.hop + (ranks - 1) / ranks * size * self.byte
        return alone * waiting


def wire_from(messages: list[dict], cores: int) -> Wire:
    """Fits hop and byte to the AllReduces of 2 ranks that `training.time_messages` timed.

    With N = 2 an AllReduce of n numbers takes 2 hop + 4 n byte seconds, so the shortest and the
    longest message give both.
    """
    timed = sorted(
        (message["numbers"], message["ms"] / 1e3)
        for message in messages
        if message["workers"] == 2 and message["message"] == "AllReduce"
    )
    (few, short), (many, long) = timed[0], timed[-1]
    byte = (long - short) / (PARAMETER_BYTES * (many - few))
    return Wire(max(0.0, (short - PARAMETER_BYTES * few * byte) / 2), byte, cores)


def state_bytes(parameters: int, ranks: int, sharded: bool) -> float:
    """Returns the bytes that a rank keeps besides parameters and gradients."""
    return STATE_BYTES * parameters / (ranks if sharded else 1)


def sent_bytes(parameters: int, ranks: int, sharded: bool) -> float:
    """Returns the bytes that a rank sends in a step."""
    return (3 if sharded else 2) * PARAMETER_BYTES * parameters * (ranks - 1) / ranks


def step_seconds(
    wire: Wire, alone: float, memory_byte: float, sizes: list[int], ranks: int, sharded: bool
) -> float:
    """Returns the seconds of a step.

    Args:
        wire: The speed of messages.
        alone: Seconds for the gradients of the whole batch in one process.
        memory_byte: Seconds for a byte that the update reads or writes.
        sizes: Numbers in each gradient's message; MindSpore sends one for each parameter.
        ranks: Number of ranks.
        sharded: Whether the state is sharded.
    """
    parameters = sum(sizes)
    update = UPDATE_BYTES * memory_byte * parameters / (ranks if sharded else 1)
    seconds = (alone / ranks + update) * (ranks if wire.cores else 1)
    if ranks > 1:
        seconds += sum(wire.all_reduce(PARAMETER_BYTES * size, ranks) for size in sizes)
        if sharded:
            seconds += wire.all_gather(PARAMETER_BYTES * parameters, ranks)
    return seconds
