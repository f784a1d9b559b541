"""The shipped configs, and messages for configs that cannot be used."""

from pathlib import Path

import pytest
from lab.run.changed_configs import refusal, write
from lab.studies.paper.paper_figures import DROPOUT, SCALE, contender, content, ordering, scales

from ms_adam.lab.run.config import load
from ms_adam.lab.studies import find
from ms_adam.lab.studies.paper.config import PaperFigure, scale_of

SHIPPED = Path(__file__).parents[4] / "configs" / "paper"
EPOCHS = {  # of the paper's figures
    "figure1_logistic": 45,
    "figure1_text": 160,
    "figure2_dropout": 200,
    "figure2_l2": 200,
    "figure3_convolution": 45,
    "figure4_bias_correction": 100,
    "section7_averaging": 45,  # this and the next are ours
    "formula_logistic": 45,
    "formula_perceptron": 200,
}


def test_all_figures_are_shipped():
    assert sorted(path.stem for path in SHIPPED.iterdir()) == sorted(EPOCHS)


@pytest.mark.parametrize("name", EPOCHS)
def test_a_shipped_config_is_the_papers_at_full_scale(name):
    study, figure = find(SHIPPED / f"{name}.yaml")
    assert (study.name, figure.name) == ("paper", name)
    assert len(figure.seeds) == 20
    assert figure.scales.standard.looks[0] == 5
    full = scale_of(figure, "full")
    assert (full.width, full.epochs) == (1, EPOCHS[name])
    assert full.trials == len(figure.optimizers[0].learning_rates)
    assert figure.batch_size == (100 if name == "figure4_bias_correction" else 128)


def test_the_errors_of_all_claims_together_are_stated():
    figures = [find(SHIPPED / f"{name}.yaml")[1] for name in EPOCHS]
    assert sum(figure.error * len(figure.claims) for figure in figures) <= 0.05


BIAS = {"form": "bias correction", "words": "w", "test": "unstable without", "measure": "end"}
NOT_BEHIND_ITSELF = ordering("ahead of")
NOT_BEHIND_ITSELF["comparisons"][0]["second"] = "Adam"
EARLY = ordering("ahead of", measure="early")
CONVOLUTION = {"kind": "convolution", "channels": [2], "units": 2}
AUTOENCODER = {"kind": "autoencoder", "units": 2, "latent": 1}
REVIEWS = {"source": "reviews", "words": 5}


def optimizers(*second, **changes):
    return {"optimizers": [{**contender("Adam"), **changes}, contender(*(second or ["AdaGrad"]))]}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"colour": 1}, "unknown key 'colour'"),
        ({"design": "guessed"}, "'tuned' or 'grid'"),
        ({"tuning_seeds": []}, "needs at least one"),
        ({"tuning_seeds": [1]}, "cannot be a judged seed"),
        (optimizers("AdaGrad", None, (0.1,)), "same number"),
        (optimizers("Adam"), "called the same"),
        (optimizers(name="Lion"), "Lion"),
        (optimizers(settings={"eps2": 1.0}), "settings of Adam are beta1, beta2, eps, bias_corr"),
        (optimizers(learning_rates=[1.0, 0.1]), "ascend"),
        ({"claims": [{**ordering("ahead of"), "variants": ["no such"]}]}, "'no such'"),
        ({"claims": [ordering("ahead of")], **optimizers("AdaMax")}, "'AdaGrad'; there are Adam,"),
        ({"claims": [ordering("ahead of", factor=2.0)]}, "takes none"),
        ({"claims": [ordering("about as")]}, "need one above 1"),
        ({"claims": [BIAS]}, "design 'grid'"),
        ({"claims": [{**BIAS, "factor": 2.0}]}, "takes none"),
        ({"variants": [{"label": "d", "dropout": 0.5}]}, "this network takes l2"),
        ({"network": CONVOLUTION}, "takes input_dropout and dropout"),
        ({"network": AUTOENCODER}, "no regularisation"),
        ({"network": AUTOENCODER, "data": {"source": "mnist", "cifar_directory": "."}}, "binary"),
        ({"data": {"source": "reviews"}}, "words belongs to"),
        ({"data": {"source": "mnist", "words": 5}}, "words belongs to"),
        ({"data": {**REVIEWS, "idx_directory": "."}}, "takes no directory"),
        ({"data": REVIEWS, "network": CONVOLUTION}, "goes with the network 'logistic'"),
        ({"batch_size": 100}, "there would be no batch"),
        ({"scales": {**scales(), "quick": {**SCALE, "early": 3}}}, "must be less than epochs"),
        ({"scales": {**scales(), "quick": {**SCALE, "trials": 4}}}, "only 3 learning rates"),
        ({"scales": {**scales(), "quick": {**SCALE, "width": 0.5}}}, "has no units"),
        ({"scales": scales(early=None), "claims": [EARLY]}, "early is missing"),
        ({"scales": scales(looks=[3, 2])}, "must ascend from 2"),
        ({"scales": scales(looks=[2, 4])}, "only 3 seeds"),
        ({"error": 0.5}, "less than 0.5"),
        ({"held_out": 10, **DROPOUT}, "have no noise"),
        ({"held_out": 10, "data": REVIEWS}, "have no noise"),  # a mask hides the padding
        ({**optimizers("Adam averaged"), "claims": [NOT_BEHIND_ITSELF]}, "only used with held_out"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(changes, words, tmp_path):
    assert words in refusal(tmp_path, content(**changes), lambda path: load(path, PaperFigure))


def test_directories_are_taken_from_the_configs_folder(tmp_path):
    path = write(tmp_path, content(data={"source": "mnist", "idx_directory": "images"}))
    assert load(path, PaperFigure).data.idx_directory == tmp_path / "images"
