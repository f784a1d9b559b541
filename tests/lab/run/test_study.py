"""How `reproduce` finds studies and runs them."""

from typing import Literal

import pytest
from lab.run.changed_configs import write

from ms_adam.lab import studies
from ms_adam.lab.run.config import ConfigError, StudyConfig
from ms_adam.lab.run.study import Session, Study, run_studies

PAGES = []


class Config(StudyConfig):
    study: Literal["stand_in", "other"]


def run(configs, session):
    session.tell(f"{len(configs)} configs, {session.options}")
    session.out.mkdir(parents=True)
    (session.out / "results.json").write_text("{}")
    return {"results": [{"experiment": config.name, "verdicts": [{}]} for config in configs]}


def write_page(folder):
    PAGES.append(folder)
    return folder / "index.html"


def a_study(name="stand_in"):
    return Study(name, Config, run, f"{__name__}:write_page", ("seed",))


def run_all(*names, out, tell=print, called="abc"):
    """Runs configs of the named studies."""
    found = [
        (a_study(name), Config(study=name, name=own, title="A title"))
        for name, own in zip(names, called)
    ]
    return run_studies(found, Session(out, lambda *_: None, tell, {"seed": 1}))


def test_configs_of_one_study_run_together(tmp_path):
    out, told = tmp_path / "out", []
    (done,) = run_all("stand_in", "stand_in", out=out, tell=told.append)
    assert told == ["2 configs, {'seed': 1}"]
    assert done.folder == out and (out / "results.json").exists()
    assert done.page == out / "index.html" and PAGES[-1] == out
    assert len(done.study.verdicts(done.content)) == 2
    assert done.study.summary(done.content) == ""


def test_configs_of_one_study_need_names_of_their_own(tmp_path):
    with pytest.raises(ConfigError, match="a name of its own; there are a, a"):
        run_all("other", "stand_in", "stand_in", out=tmp_path / "out", called="aaa")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text, part",
    [
        ("name: a\n", "the key 'study' is missing: must be one of images, text"),
        ("study: imges\n", "study = 'imges': must be one of images, text"),
        ("study: [1]\n", r"study = \[1\]: must be one of"),
        ("- 1\n", "the key 'study' is missing"),
    ],
)
def test_a_config_must_name_a_study(tmp_path, text, part):
    with pytest.raises(ConfigError, match=part):
        studies.find(write(tmp_path, text))


def test_an_unknown_option_is_refused_with_the_studies_that_know_it(monkeypatch):
    monkeypatch.setattr(studies, "STUDIES", {"stand_in": "", "other": ""})
    known = {"stand_in": a_study(), "other": Study("other", Config, run, "")}
    monkeypatch.setattr(studies, "study", known.get)
    studies.refuse_unknown_options([known["stand_in"]], ["seed"])
    with pytest.raises(ConfigError, match="--seed: the study other .*; only stand_in does"):
        studies.refuse_unknown_options(known.values(), ["seed"])
