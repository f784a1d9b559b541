"""The configs that are shipped, and messages for those that can not be used."""

from pathlib import Path

import pytest
import yaml
from lab.studies.paper.paper_figures import contender, content, ordering

from ms_adam.lab.run.config import ConfigError
from ms_adam.lab.studies.paper.config import is_paper_figure, load_figure, scale_of

SHIPPED = sorted((Path(__file__).parents[4] / "configs" / "paper").glob("*.yaml"))


def test_all_figures_are_there():
    assert [path.stem for path in SHIPPED] == [
        "figure1_logistic",
        "figure1_text",
        "figure2_dropout",
        "figure2_l2",
        "figure3_convolution",
        "figure4_bias_correction",
    ]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_is_the_papers_at_full_scale(path):
    assert is_paper_figure(path)
    figure = load_figure(path)
    assert figure.name == path.stem
    assert len(figure.seeds) == 3
    full = scale_of(figure, "full")
    assert full.width == 1
    epochs = {
        "figure1_logistic": 45,
        "figure1_text": 160,
        "figure2_dropout": 200,
        "figure2_l2": 200,
        "figure3_convolution": 45,
        "figure4_bias_correction": 100,
    }
    assert full.epochs == epochs[figure.name]
    assert full.trials == len(figure.optimizers[0].learning_rates)
    assert figure.batch_size == (100 if figure.name == "figure4_bias_correction" else 128)


BIAS = {"form": "bias correction", "words": "w", "test": "unstable without", "measure": "end"}
SCALE = content()["scales"]["quick"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"colour": 1}, "unknown key 'colour'"),
        ({"design": "guessed"}, "'tuned' or 'grid'"),
        ({"tuning_seeds": []}, "needs at least one"),
        ({"tuning_seeds": [1]}, "can not be a judged seed"),
        ({"optimizers": [contender("Adam"), contender("AdaGrad", rates=(0.1,))]}, "same number"),
        ({"optimizers": [contender("Adam"), contender("Adam")]}, "called the same"),
        ({"optimizers": [{**contender("Adam"), "name": "Lion"}]}, "Lion"),
        (
            {"optimizers": [contender("Adam", eps2=1.0), contender("AdaGrad")]},
            "the settings of Adam are beta1, beta2, eps, bias_correction",
        ),
        ({"optimizers": [contender("Adam", rates=(1.0, 0.1)), contender("AdaGrad")]}, "ascend"),
        ({"claims": [{**ordering("ahead of"), "variants": ["no such"]}]}, "'no such'"),
        ({"claims": [ordering("ahead of", factor=2.0)]}, "takes none"),
        ({"claims": [ordering("about as")]}, "need one above 1"),
        ({"claims": [BIAS]}, "design 'grid'"),
        ({"claims": [{**BIAS, "factor": 2.0}]}, "takes none"),
        ({"variants": [{"label": "d", "dropout": 0.5}]}, "this network takes l2"),
        (
            {"network": {"kind": "convolution", "channels": [2], "units": 2}},
            "takes input_dropout and dropout",
        ),
        ({"network": {"kind": "autoencoder", "units": 2, "latent": 1}}, "no regularisation"),
        ({"data": {"source": "reviews"}}, "words belongs to"),
        ({"data": {"source": "mnist", "words": 5}}, "words belongs to"),
        ({"batch_size": 100}, "there would be no batch"),
        (
            {"scales": {"quick": {**SCALE, "early": 3}, "standard": SCALE, "full": SCALE}},
            "must be less than epochs",
        ),
        (
            {"scales": {"quick": {**SCALE, "trials": 4}, "standard": SCALE, "full": SCALE}},
            "only 3 learning rates",
        ),
        (
            {"scales": {"quick": {**SCALE, "width": 0.5}, "standard": SCALE, "full": SCALE}},
            "has no units",
        ),
        (
            {
                "scales": {"quick": {**SCALE, "early": None}, "standard": SCALE, "full": SCALE},
                "claims": [ordering("ahead of", measure="early")],
            },
            "early is missing",
        ),
    ],
)
def test_a_config_that_can_not_be_used_is_refused(changes, words, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(content(**changes)))
    with pytest.raises(ConfigError) as refused:
        load_figure(path)
    assert words in str(refused.value)
    assert str(path) in str(refused.value)


def test_directories_are_taken_from_the_configs_folder(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(content(data={"source": "mnist", "idx_directory": "images"})))
    assert load_figure(path).data.idx_directory == tmp_path / "images"


def test_an_unknown_scale_is_refused():
    with pytest.raises(ConfigError, match="quick, standard, full"):
        scale_of(load_figure(SHIPPED[0]), "huge")
