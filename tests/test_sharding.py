"""Shares of the state: their division, their checkpoints; ranks held to unsharded optimizers."""

import itertools
import json

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab.run.launched import paths_of_tests
from lab.studies.ranks import shards
from mindspore import Parameter, Tensor, communication

import ms_adam
from ms_adam import state
from ms_adam.backends import BACKENDS, packing_for
from ms_adam.lab.run.launch import launch
from ms_adam.sharding import Piece, Shares

SHAPES = st.lists(st.lists(st.integers(0, 9), max_size=3).map(tuple), max_size=8)
RANKS = st.integers(1, 9)


def row_of(shape):
    size = int(np.prod(shape))
    return size // shape[0] if shape and size else 1


def faults(shares, shapes):
    """What keeps shares from being a division of parameters into whole rows."""
    found = []
    if len(shares.pieces) != len(shapes):
        found.append("not every parameter has pieces")
    for shape, pieces in zip(shapes, shares.pieces):
        end = 0
        for piece in pieces:
            if piece.begin != end:
                found.append(f"{shape}: a piece begins at {piece.begin}, the last ended at {end}")
            if piece.size % row_of(shape):
                found.append(f"{shape}: a row is cut")
            end = piece.begin + piece.size
        if end != np.prod(shape):
            found.append(f"{shape}: the pieces end at {end}")
        owners = [piece.owner for piece in pieces]
        if len(set(owners)) != len(owners) or not set(owners) <= set(range(shares.ranks)):
            found.append(f"{shape}: the owners are {owners}")
    return found


def loads(shares):
    return [
        sum(piece.size for pieces in shares.pieces for piece in pieces if piece.owner == rank)
        for rank in range(shares.ranks)
    ]


class TestByRows:
    @given(SHAPES, RANKS)
    def test_is_a_division_into_rows(self, shapes, ranks):
        assert faults(Shares.by_rows(shapes, 0, ranks), shapes) == []

    @given(SHAPES, RANKS)
    def test_each_share_is_within_a_row_of_equal(self, shapes, ranks):
        """Either end of a share is at most half a row from where it would be exactly."""
        found = loads(Shares.by_rows(shapes, 0, ranks))
        row = max(map(row_of, shapes), default=1)
        assert all(abs(ranks * load - sum(found)) <= ranks * row for load in found)

    @given(SHAPES, RANKS)
    def test_ranks_stand_in_order(self, shapes, ranks):
        pieces = Shares.by_rows(shapes, 0, ranks).pieces
        owners = [piece.owner for of_one in pieces for piece in of_one if piece.size]
        assert owners == sorted(owners)

    def test_fewer_elements_than_ranks(self):
        shares = Shares.by_rows([(), (2,), (0, 3)], 0, 5)
        assert sorted(loads(shares)) == [0, 0, 1, 1, 1]
        assert shares.pieces[2] == (Piece(0, 0, 0),)

    def test_one_row_is_not_divided(self):
        assert sorted(loads(Shares.by_rows([(1, 1000)], 0, 4))) == [0, 0, 0, 1000]

    @given(SHAPES, RANKS)
    def test_owned_is_what_the_pieces_say(self, shapes, ranks):
        everything = Shares.by_rows(shapes, 0, ranks)
        found = [[] for _ in shapes]
        for rank in range(ranks):
            owned = everything._replace(rank=rank).owned
            assert len(owned) == len(shapes)
            for place, own in zip(found, owned):
                place += [Piece(rank, *own)] if own is not None else []
        assert tuple(map(tuple, found)) == everything.pieces


@pytest.mark.parametrize(
    "pieces, fault",
    [
        ([(0, 0, 6), (1, 3, 9)], "begins at 3"),  # a row twice
        ([(0, 0, 3), (1, 6, 6)], "begins at 6"),  # one missing
        ([(0, 0, 9)], "end at 9"),
        ([(0, 0, 4), (1, 4, 8)], "a row is cut"),
        ([(0, 0, 6), (0, 6, 6)], "owners are [0, 0]"),
        ([(0, 0, 6), (2, 6, 6)], "owners are [0, 2]"),
    ],
)
def test_a_wrong_division_is_seen(pieces, fault):
    right = Shares.by_rows([(4, 3)], 0, 2)
    assert faults(right, [(4, 3)]) == []
    wrong = right._replace(pieces=(tuple(Piece(*piece) for piece in pieces),))
    assert any(fault in words for words in faults(wrong, [(4, 3)]))


class TestByParameters:
    @given(SHAPES, RANKS)
    def test_is_a_division_into_parameters(self, shapes, ranks):
        shares = Shares.by_parameters(shapes, 0, ranks)
        assert faults(shares, shapes) == []
        assert all(len(pieces) == 1 for pieces in shares.pieces)

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(2, 3))
    def test_is_at_most_four_thirds_of_the_best(self, sizes, ranks):
        """Graham 1969, theorem 2: 4/3 - 1/(3 ranks), here in whole numbers."""
        best = min(
            max(
                sum(size for size, owner in zip(sizes, owners) if owner == rank)
                for rank in range(ranks)
            )
            for owners in itertools.product(range(ranks), repeat=len(sizes))
        )
        found = max(loads(Shares.by_parameters([(size,) for size in sizes], 0, ranks)))
        assert 3 * ranks * found <= (4 * ranks - 1) * best

    def test_the_bound_is_reached(self):
        """So it is no smaller one that holds: Graham's example."""
        found = loads(Shares.by_parameters([(size,) for size in (3, 3, 2, 2, 2)], 0, 2))
        assert max(found) == 7  # where 6 is possible: 7/6 = 4/3 - 1/(3*2)


class TestRefused:
    def parameters(self, dtype=ms.float32):
        return [Parameter(Tensor(np.zeros((4, 2)), dtype), name="w")]

    def test_in_another_parallel_mode(self, monkeypatch):
        monkeypatch.setattr(communication.GlobalComm, "INITED", True)
        monkeypatch.setattr(ms, "get_auto_parallel_context", lambda _: "semi_auto_parallel")
        with pytest.raises(ValueError, match="data_parallel.*got .*='semi_auto_parallel'"):
            ms_adam.Adam(self.parameters(), shard_state=True)

    @pytest.mark.parametrize(
        "backend, dtype, masters, can",
        [
            ("composite", ms.bfloat16, False, False),
            ("composite", ms.float64, False, False),
            ("composite", ms.float64, True, False),
            ("composite", ms.bfloat16, True, True),
            ("composite", ms.float16, False, True),
            ("fused", ms.bfloat16, False, True),
            ("fused", ms.float64, False, True),
        ],
    )
    def test_what_no_operator_can_read(self, backend, dtype, masters, can):
        parameters = self.parameters(dtype)
        weights = list(parameters) if masters else parameters
        if can:
            ((_, places),) = packing_for("Adam", backend, parameters, weights, "CPU")
            assert places == [0]
        else:
            with pytest.raises(ValueError, match="'w' of .*Float.*backend='fused'"):
                packing_for("Adam", backend, parameters, weights, "CPU")


def bits(optimizer):
    return shards.bits_of(ms_adam.gather_state(optimizer))


def trained(name):
    optimizer = shards.make(shards.CASES[name], sharded=False)
    shards.run(optimizer, 2, 5, sparse=False)
    return optimizer


def share(optimizer, shares, rank):
    """What the optimizer would have saved if it had been one rank's; by hand."""
    owned = shares._replace(rank=rank).owned
    whole = ms_adam.gather_state(optimizer)
    entries = {name: whole[name] for name in ("global_step", "beta1_power", "beta2_power")}
    for name, value in whole.items():
        prefix, dot, of = name.partition(".")
        place = [p.name for p in optimizer.parameters].index(of) if dot else None
        if place is not None and owned[place] is not None:
            begin, size = owned[place]
            rows = np.array(value.asnumpy()).reshape(-1)[begin : begin + size]
            entries[name] = rows.reshape(state.shape_of_rows(value.shape, size))
    if hasattr(optimizer, "layout"):
        flatten(entries, state.FlatLayout.of(optimizer.parameters, owned))
    entries["shard_layout"] = state.layout_entry(state.ShardLayout.of(optimizer.parameters, owned))
    return entries


def flatten(entries, layout):
    for prefix in ("moment1", "moment2", "vhat"):
        if not any(name.startswith(f"{prefix}.") for name in entries):
            continue
        buffers = {dtype: np.zeros(size, dtype) for dtype, size in layout.sizes().items()}
        for name, _, dtype, offset in zip(*layout):
            value = entries.pop(f"{prefix}.{name}").reshape(-1)
            buffers[dtype][offset : offset + value.size] = value
        entries.update({f"flat_{prefix}.{dtype}": buffer for dtype, buffer in buffers.items()})
    entries["flat_layout"] = state.layout_entry(layout).asnumpy()


def all_shares(optimizer, divide, ranks):
    shares = divide([parameter.shape for parameter in optimizer.parameters], 0, ranks)
    return [share(optimizer, shares, rank) for rank in range(ranks)]


@pytest.mark.parametrize(
    "name", ["AMSGrad", "flat", "primitive", "composite", "master weights", "dtypes"]
)
def test_shares_in_a_list_are_the_whole_state(name):
    old = trained(name)
    for divide, ranks in ((Shares.by_rows, 3), (Shares.by_parameters, 4), (Shares.by_rows, 40)):
        new = shards.make(shards.CASES[name], sharded=False)
        parts = all_shares(old, divide, ranks)
        ms_adam.load_state(new, parts[::-1])  # in any order
        assert shards.different(bits(new), bits(old)) == []


def test_shares_of_any_layout_and_backend_fit():
    old = trained("flat")
    parts = all_shares(old, Shares.by_rows, 2)
    for case in ({}, {"flat_state": True}, {"backend": "composite"}):
        new = shards.make(case, sharded=False)
        ms_adam.load_state(new, parts)
        assert shards.different(bits(new), bits(old)) == []


@pytest.fixture(scope="module")
def old():
    return trained("AMSGrad")


def layout_changed(part, **changes):
    layout = json.loads(part["shard_layout"].asnumpy().tobytes())
    layout.update(changes)
    text = np.frombuffer(json.dumps(layout).encode(), np.uint8).copy()
    return {**part, "shard_layout": text}


WRONG = {
    "missing": (lambda p: p[:2], r"of the \d+ elements of moment1\.w\d not at all"),
    "twice": (lambda p: [*p, p[1]], r"elements of moment1\.w\d not at all and \d+ more than once"),
    "other steps": (
        lambda p: [p[0], p[1], {**p[2], "global_step": np.int32([3])}],
        r"number 0 counts 2, number 2 counts 2 or 3 \(global_step 3\)",
    ),
    "one alone": (lambda p: p[1], "share of another rank .* not of rank 0 of 1"),
    "no layout": (
        lambda p: [p[0], {k: v for k, v in p[1].items() if k != "shard_layout"}, p[2]],
        "checkpoint 1 of the list is not a share",
    ),
    "no JSON": (
        lambda p: [{**p[0], "shard_layout": np.uint8([1, 2, 3])}, *p[1:]],
        "'shard_layout' is damaged",
    ),
    "other JSON": (
        lambda p: [{**p[0], "shard_layout": np.frombuffer(b"[1]", np.uint8)}, *p[1:]],
        "'shard_layout' is damaged",
    ),
    "unnamed": (
        lambda p: [layout_changed(p[0], names=[]), *p[1:]],
        r"checkpoint 0 of the list.*moment1\.w0.*shard_layout",
    ),
    "too many": (
        lambda p: [*p[:2], layout_changed(p[2], sizes=[10**6] * 9)],
        r"checkpoint 2 of the list.*moment1\.w\d.*shard_layout",
    ),
    "begins late": (
        lambda p: [*p[:2], layout_changed(p[2], begins=[10**6] * 9)],
        r"checkpoint 2 of the list.*moment1\.w\d.*shard_layout",
    ),
    "empty": (lambda p: [], "list of checkpoints is empty"),
    "no optimizer's": (lambda p: [p[0], {}, p[2]], "checkpoint 1 of the list is not a share"),
    "a whole state": (
        lambda p: [p[0], trained("AMSGrad").parameters_dict()],
        "checkpoint 1 of the list is not a share.*whole state",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_list_that_is_no_state_is_refused(old, name):
    change, message = WRONG[name]
    new = shards.make(shards.CASES["AMSGrad"], sharded=False)
    before = bits(new)
    with pytest.raises(ValueError, match=message):
        ms_adam.load_state(new, change(all_shares(old, Shares.by_rows, 3)))
    assert shards.different(bits(new), before) == []


@pytest.mark.parametrize(
    "pieces", [((0, 0, 9), (1, 6, 9)), ((0, 0, 6), (1, 9, 6))], ids=["a row twice", "one missing"]
)
def test_a_wrong_division_is_no_state(old, pieces):
    shapes = [parameter.shape for parameter in old.parameters]
    right = Shares.by_rows(shapes, 0, 2)
    shares = right._replace(pieces=(tuple(Piece(*it) for it in pieces), *right.pieces[1:]))
    assert faults(shares, shapes) != []
    new = shards.make(shards.CASES["AMSGrad"], sharded=False)
    with pytest.raises(ValueError, match=r"of the 15 elements of moment1\.w0"):
        ms_adam.load_state(new, [share(old, shares, rank) for rank in range(2)])


# What follows looks at what ranks found; each launch runs all cases.


def launched(ranks, mode, folder, **job):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # MindSpore writes there what it could not compile
        for _ in launch(
            ranks, "lab.studies.ranks.shards", {"mode": mode, **job}, folder, paths_of_tests()
        ):
            pass
    return folder, [
        json.loads((folder / f"found_{rank}.json").read_text()) for rank in range(ranks)
    ]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return launched(2, "graph", tmp_path_factory.mktemp("two ranks"))  # a space in the path


@pytest.fixture(scope="module")
def three(tmp_path_factory, two):
    return launched(3, "pynative", tmp_path_factory.mktemp("three"), others=[str(two[0]), 2])


@pytest.fixture(params=["two", "three"])
def ranks(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("name", shards.CASES)
class TestRanks:
    def test_no_bit_is_another(self, ranks, name):
        """One rank has compared; all have the same."""
        (different,) = [
            found["different"][name] for found in ranks[1] if name in found["different"]
        ]
        read = ("after steps", "state", "as compared", "gone on", "state gone on")
        assert different == dict.fromkeys(read, [])
        assert len({found["cases"][name]["digest"] for found in ranks[1]}) == 1

    def test_state_is_divided(self, ranks, name):
        case = shards.CASES[name]
        found = [found["cases"][name] for found in ranks[1]]
        held, whole = sum(one["bytes"] for one in found), found[0]["bytes of all"]
        if case.get("flat_state"):
            # Each piece is filled up by less than ALIGNMENT numbers of 4 bytes in each buffer.
            buffers = 3 if case.get("use_amsgrad") else 2
            pieces = len(case.get("shapes", shards.SHAPES)) + len(found)
            assert abs(held - whole) < 4 * state.ALIGNMENT * pieces * buffers
        else:
            assert held == whole

    def test_largest_share_is_a_row_above_its_part(self, ranks, name):
        shapes = shards.CASES[name].get("shapes", shards.SHAPES)
        total, most = (
            sum(int(np.prod(shape)) for shape in shapes),
            max(found["cases"][name]["elements"] for found in ranks[1]),
        )
        if BACKENDS[shards.CASES[name].get("backend", "fused")].capabilities.divides_rows:
            assert most <= total / len(ranks[1]) + max(map(row_of, shapes))
        else:
            assert most == max(loads(Shares.by_parameters(shapes, 0, len(ranks[1]))))

    def test_saved_shares_are_the_whole_state(self, ranks, name):
        folder, found = ranks
        whole = shards.make(shards.CASES[name], sharded=False)
        paths = [str(folder / f"{shards.tag(name)}-{rank}.ckpt") for rank in range(len(found))]
        ms_adam.load_state(whole, paths)
        with np.load(folder / f"{shards.tag(name)}.npz") as expected:
            assert shards.different(bits(whole), expected) == []

    def test_another_number_of_ranks_takes_it(self, three, name):
        for found in three[1]:
            assert found["cases"][name]["from shares of others"] == []
            assert found["cases"][name]["from gathered of others"] == []


@pytest.mark.parametrize("backend", ["fused", "primitive", "composite"])
def test_compiled_into_a_step(two, backend):
    """With the reduction of gradients, dense and row-sparse; or refused, for operators."""
    for found in two[1]:
        if BACKENDS[backend].capabilities.divides_rows:
            assert found["steps"][backend] == []
        else:
            assert found["steps"][backend].startswith(
                "ValueError: With shard_state=True and backend 'primitive' or 'composite', call"
            )


@pytest.mark.parametrize("backend", ["fused", "primitive", "composite"])
def test_in_a_step_of_pynative_mode(three, backend):
    for found in three[1]:
        assert found["steps"][backend] == []


def test_a_share_of_another_rank_is_refused_by_a_rank(two, three):
    for launch_of in (two, three):
        for rank, found in enumerate(launch_of[1]):
            assert f"not of rank {rank} of {len(launch_of[1])}" in found["share of another"]
