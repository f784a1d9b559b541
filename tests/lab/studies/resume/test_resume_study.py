"""What the options of `reproduce` mean for a training, and what a kill test comes to."""

import pytest
from lab.studies.resume.training_config import small_run

from ms_adam.lab.errors import ExperimentError
from ms_adam.lab.run.study import Session
from ms_adam.lab.studies.resume import kill_test, study


@pytest.mark.parametrize(
    "options, given",
    [
        ({"kills": 3}, ("graph", 3, 0, 5)),
        ({"kills": 1, "every": 7, "seed": 2, "mode": "pynative"}, ("pynative", 1, 2, 7)),
    ],
)
def test_options_of_a_kill_test(tmp_path, monkeypatch, options, given):
    def stand_in(run, mode, out, kills, seed, tell):
        assert out == tmp_path
        return mode, kills, seed, run.checkpoints.every_steps

    monkeypatch.setattr(kill_test, "kill_test", stand_in)
    session = Session(tmp_path, lambda *_: None, print, options)
    run = small_run(tmp_path)
    assert study.run([run], session) == given
    with pytest.raises(ExperimentError, match="so name one config; there are 2"):
        study.run([run, run], session)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"every": 7}, "--every: only with --kills; here the config's checkpoints.every_steps"),
        ({"seed": 0, "resume": True}, "--seed: only with --kills; here the config's training.seed"),
        ({"kills": 1, "resume": True}, "--resume: not with --kills"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, options, message):
    session = Session(tmp_path / "out", lambda *_: None, print, options)
    with pytest.raises(ExperimentError, match=message):
        study.run([small_run(tmp_path)], session)
    assert not (tmp_path / "out").exists()


def killed(*differing):
    halves = ((True, 5), (False, None))
    kills = [{"half_written": half, "resumed_after": after} for half, after in halves]
    trainings = [{"differing": list(names)} for names in differing]
    return {"results": [{"steps": 24, "kills": kills, "trainings": trainings}]}


@pytest.mark.parametrize(
    "content, status, measured, summary",
    [
        (killed((), ()), "held", "2 of 2 trainings are equal", "bit for bit, in 2 of 2"),
        (killed((), ("loss.csv",)), "not held", "these differ: killed-2", "in 1 of 2"),
    ],
)
def test_a_curve_that_differs_is_named(content, status, measured, summary):
    (verdict,) = study.verdicts(content)
    assert (verdict["status"], verdict["measured"]) == (status, measured)
    said = study.summary(content)
    assert "2 kills in 2 trainings of 24 steps; 1 while" in said and "1 times" in said
    assert summary in said


def test_a_training_claims_nothing():
    result = {"steps": 24, "backend": "fused", "first_loss": 2.43, "last_loss": 0.03}
    content = {"results": [{**result, "test_accuracy": 0.921}]}
    assert study.verdicts(content) == []
    said = study.summary(content)
    assert "24 steps, backend fused: loss 2.43 at first, 0.03 at last; 92.1%" in said
