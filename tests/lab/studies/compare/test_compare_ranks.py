"""Sides that several processes train, under MindSpore's launcher."""

import pytest
from lab.run.launched import left_of, paths_of_tests
from lab.studies.compare.test_compare_pairs import MAKE, compared, faulty, side
from lab.studies.compare.trainings import LAST, TABLE

from ms_adam.lab.errors import ExperimentError
from ms_adam.lab.run.launch import launch
from ms_adam.lab.studies.compare import judge, run


def two(one):
    return {**one, "ranks": 2}


ONE, TWO, SHARDED = side(), two(side(mode="graph")), two(side(shard_state=True))
PAIRS = {
    "1 | 2": (ONE, TWO),
    "2, sharded | 2": (SHARDED, TWO),  # the first judges, and needs communication for it
    "not exchanged": (ONE, two(side(mode="graph", changes={"layerwise": TABLE}))),
    "one rank's update lost": (ONE, two(faulty("update lost", 2, rank=1))),
}


def in_one_launch(count):
    """Stands for `launch`: the last of so many trainings makes all of them."""
    jobs = []

    def launch_all(workers, module, job, folder):
        if "judged" in job:
            yield from launch(workers, module, job, folder)
            return
        jobs.append(job)
        if len(jobs) == count:
            everything, module = {**job, "jobs": jobs}, "lab.studies.compare.several_sides"
            yield from launch(workers, module, everything, folder, paths_of_tests())

    return launch_all


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    of_ranks = {str(one) for pair in PAIRS.values() for one in pair if "ranks" in one}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths_of_tests()["PYTHONPATH"])
        patch.setattr(run, "launch", in_one_launch(len(of_ranks)))
        return compared(tmp_path_factory.mktemp("ranks"), PAIRS, MAKE)


@pytest.mark.parametrize("name", list(PAIRS)[:2])
def test_ranks_compute_what_one_process_does(pairs, name):
    found = pairs[name]
    assert found["status"] in (judge.EQUAL, judge.HELD), found["sentence"]
    assert "not alike" not in found["sentence"]


@pytest.mark.parametrize(
    "name, cause, step, tensor, words",
    [
        (
            "not exchanged",
            *(judge.NETWORK, 1, TABLE),
            "from step 1 on the gradient of table on rank 1 is another one than on rank 0.",
        ),
        (
            "one rank's update lost",
            *(judge.UPDATE, 2, LAST),
            "from step 2 on the parameter last.weight on rank 1 is another one than on rank 0.",
        ),
    ],
)
def test_a_fault_of_one_rank_is_found(pairs, name, cause, step, tensor, words):
    found = pairs[name]
    first = found["first"]
    assert (found["cause"], first["step"], first["parameter"]) == (cause, step, tensor), found
    assert found["sentence"].endswith(words)


def test_a_lost_rank_ends_the_comparison(tmp_path, importable):
    killed = two(faulty("killed", 2, rank=1))
    with pytest.raises(ExperimentError) as caught:
        compared(tmp_path, {"lost": (killed, ONE)}, MAKE)
    message = str(caught.value)
    assert message.startswith("side 'side 1' (training): rank 1 of 2 was killed or crashed")
    assert str(tmp_path / "side1_training") in message
    assert left_of(tmp_path) == []
