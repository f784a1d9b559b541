"""Adams with one mistake each, as methods like those of `ms_adam.reference` and in MindSpore.

`EXPECTED` says what each must be called: what it is where that has a name, else no known formula.
"""

from dataclasses import dataclass, replace

import numpy as np
from mindspore import Tensor, nn

from ms_adam import reference
from ms_adam.lab.studies.identify.forms import Numbers, rounded
from ms_adam.reference.method import Method


@dataclass(frozen=True)
class Adam(Method):
    """Algorithm 1, written in parts that a mutant can replace."""

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def init(self, parameter):
        zeros = np.zeros(np.shape(parameter))
        return 0, zeros, zeros

    def step(self, parameter, gradient, state, *, learning_rate=None):
        t, m, v = state
        t = t + 1
        g = self.gradient(gradient, parameter)
        m, v = self.moment1(m, g), self.moment2(v, g)
        new = parameter - self.rate(t) * self.update(t, m, v, g)
        return self.after(parameter, new, gradient), (t, m, v)

    def gradient(self, g, w):
        return g + self.weight_decay * w

    def moment1(self, m, g):
        return self.beta1 * m + (1 - self.beta1) * g

    def moment2(self, v, g):
        return self.beta2 * v + (1 - self.beta2) * g * g

    def c1(self, t):
        return 1 - self.beta1**t

    def c2(self, t):
        return 1 - self.beta2**t

    def root(self, v, t):
        return np.sqrt(v / self.c2(t)) + self.eps

    def update(self, t, m, v, g):
        return m / self.c1(t) / self.root(v, t)

    def rate(self, t):
        return self.learning_rate

    def after(self, old, new, g):
        return new


@dataclass(frozen=True)
class WithNumbers(reference.Adam):
    """Algorithm 1, which runs with other numbers than it was given."""

    def runs(self):
        return reference.Adam(**{name: getattr(self, name) for name in Numbers._fields})

    def step(self, parameter, gradient, state, **more):
        new, state = self.runs().step(parameter, gradient, state, **more)
        return new, self.kept(state)

    def kept(self, state):
        return state


class Beta2InBfloat16(WithNumbers):
    """0.999 rounded down, as a conversion by shifting does."""

    def runs(self):
        bits = np.float32(self.beta2).view(np.uint32) & np.uint32(0xFFFF0000)
        return replace(super().runs(), beta2=float(bits.view(np.float32)))


class Moment2InBfloat16(WithNumbers):
    """Kept in bfloat16, rounded to nearest: 0.999 v is v."""

    def kept(self, state):
        return state._replace(moment2=bfloat16(state.moment2))


class EpsilonMoved(WithNumbers):
    def runs(self):
        return replace(super().runs(), eps=1.00001 * self.eps)


class DecayHalved(WithNumbers):
    def runs(self):
        return replace(super().runs(), weight_decay=self.weight_decay / 2)


UNKNOWN = "no known formula"
EXPECTED = {}  # by mutant: the formula that must be found


def mutant(name, expected=UNKNOWN, **parts):
    """Registers Algorithm 1 with some parts replaced."""
    EXPECTED[type(name, (Adam,), parts)] = expected


# The moments.
mutant("Moment1Sign", moment1=lambda self, m, g: self.beta1 * m - (1 - self.beta1) * g)
mutant("Moment2Sign", moment2=lambda self, v, g: self.beta2 * v - (1 - self.beta2) * g * g)
mutant("Moment1NotAveraged", moment1=lambda self, m, g: self.beta1 * m + g)
mutant("Moment2NotAveraged", moment2=lambda self, v, g: self.beta2 * v + g * g)
mutant("Moment2OfSize", moment2=lambda self, v, g: self.beta2 * v + (1 - self.beta2) * np.abs(g))
mutant("Moment1WithBeta2", moment1=lambda self, m, g: self.beta2 * m + (1 - self.beta2) * g)
mutant("Moment2WithBeta1", moment2=lambda self, v, g: self.beta1 * v + (1 - self.beta1) * g * g)
mutant("Moment1OfMean", moment1=lambda self, m, g: self.beta1 * m + (1 - self.beta1) * g.mean())
mutant(
    "Moment1Float16",
    moment1=lambda self, m, g: np.asarray(Adam.moment1(self, m, g), np.float16).astype(np.float64),
)
mutant(
    "BothMomentsBfloat16",
    "Algorithm 1, bfloat16 moments",
    moment1=lambda self, m, g: bfloat16(Adam.moment1(self, m, g)),
    moment2=lambda self, v, g: bfloat16(Adam.moment2(self, v, g)),
)
mutant(
    "BetasExchanged",
    "Algorithm 1, beta1 and beta2 exchanged",
    moment1=lambda self, m, g: self.beta2 * m + (1 - self.beta2) * g,
    moment2=lambda self, v, g: self.beta1 * v + (1 - self.beta1) * g * g,
    c1=lambda self, t: 1 - self.beta2**t,
    c2=lambda self, t: 1 - self.beta1**t,
)

# The corrections.
mutant("FirstCorrectedOnly", "only the first moment corrected", c2=lambda self, t: 1.0)
mutant("SecondCorrectedOnly", "only the second moment corrected", c1=lambda self, t: 1.0)
mutant("NoCorrection", "no bias correction", c1=lambda self, t: 1.0, c2=lambda self, t: 1.0)
mutant(
    "CorrectionsExchanged",
    c1=lambda self, t: 1 - self.beta2**t,
    c2=lambda self, t: 1 - self.beta1**t,
)
mutant(
    "CountedFrom2",
    "Algorithm 1, steps counted from 2",
    c1=lambda self, t: 1 - self.beta1 ** (t + 1),
    c2=lambda self, t: 1 - self.beta2 ** (t + 1),
)
mutant(
    "CountedFrom0",
    c1=lambda self, t: np.float64(1 - self.beta1 ** (t - 1)),
    c2=lambda self, t: np.float64(1 - self.beta2 ** (t - 1)),
)
mutant("FirstCountsFrom2", c1=lambda self, t: 1 - self.beta1 ** (t + 1))
mutant("SecondCorrectedWithoutRoot", root=lambda self, v, t: np.sqrt(v) / self.c2(t) + self.eps)
mutant("SecondCorrectedTwice", root=lambda self, v, t: np.sqrt(v / self.c2(t) ** 2) + self.eps)
mutant("CorrectedInFirstStepOnly", c2=lambda self, t: 1 - self.beta2 if t == 1 else 1.0)
mutant("CorrectionEnds", c2=lambda self, t: 1 - self.beta2**t if t < 200 else 1.0)

# Epsilon.
mutant(
    "EpsilonHat",
    "epsilon-hat",
    root=lambda self, v, t: np.sqrt(v / self.c2(t)) + self.eps / np.sqrt(self.c2(t)),
)
mutant(
    "EpsilonInside",
    "epsilon inside the root",
    root=lambda self, v, t: np.sqrt(v / self.c2(t) + self.eps),
)
mutant("EpsilonInsideUncorrected", root=lambda self, v, t: np.sqrt((v + self.eps) / self.c2(t)))
mutant("EpsilonSquaredInside", root=lambda self, v, t: np.sqrt(v / self.c2(t) + self.eps**2))
mutant("EpsilonAsFloor", root=lambda self, v, t: np.maximum(np.sqrt(v / self.c2(t)), self.eps))
mutant("EpsilonTwice", root=lambda self, v, t: np.sqrt(v / self.c2(t)) + 2 * self.eps)
mutant("NoEpsilon", "no epsilon", root=lambda self, v, t: np.sqrt(v / self.c2(t)))

# The update.
mutant("NoRoot", root=lambda self, v, t: v / self.c2(t) + self.eps)
mutant("Ascent", rate=lambda self, t: -self.learning_rate)
mutant("RateTwice", rate=lambda self, t: self.learning_rate**2)
mutant("RateDecays", rate=lambda self, t: self.learning_rate / np.sqrt(t))
mutant("RateOnePercentOff", rate=lambda self, t: 1.01 * self.learning_rate)
mutant("GradientForMoment1", update=lambda self, t, m, v, g: g / self.root(v, t))
mutant(
    "Nesterov",
    "Algorithm 1, Nesterov",
    update=lambda self, t, m, v, g: Adam.update(
        self, t, self.beta1 * m + (1 - self.beta1) * g, v, g
    ),
)
mutant(
    "ZerosLeft",
    "Algorithm 1, elements of zero gradient left out",
    after=lambda self, old, new, g: np.where(g == 0, old, new),
    moment1=lambda self, m, g: np.where(g == 0, m, Adam.moment1(self, m, g)),
    moment2=lambda self, v, g: np.where(g == 0, v, Adam.moment2(self, v, g)),
)
mutant("ZerosHalfLeft", after=lambda self, old, new, g: np.where(g == 0, old, new))
mutant(
    "UpdateClipped",
    update=lambda self, t, m, v, g: np.clip(Adam.update(self, t, m, v, g), -1.0, 1.0),
)
mutant("GradientClipped", gradient=lambda self, g, w: np.clip(g, -1.0, 1.0))
mutant("HiddenDecay", after=lambda self, old, new, g: new - 1e-5 * old)
mutant("HiddenL2", gradient=lambda self, g, w: g + 1e-2 * w)

# Arguments that are not heeded.
mutant(
    "Beta1Fixed",
    "Algorithm 1, ignores beta1",
    moment1=lambda self, m, g: 0.9 * m + 0.1 * g,
    c1=lambda self, t: 1 - 0.9**t,
)
mutant(
    "EpsilonFixed",
    "Algorithm 1, ignores eps",
    root=lambda self, v, t: np.sqrt(v / self.c2(t)) + 1e-8,
)


def bfloat16(x):
    """The nearest bfloat16; a test holds `rounded` to MindSpore's."""
    return rounded(x, "bfloat16")


class MindSporeAdam(nn.Optimizer):
    """Algorithm 1, or one of the mutants, as an optimizer of MindSpore.

    It computes in NumPy, in the dtype of the weights: an identification takes hundreds of steps and
    ten compilations, and with operators 5 s more.
    """

    method = Adam

    def __init__(
        self, params, learning_rate=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0
    ):
        super().__init__(learning_rate, params, weight_decay)
        self.adam, self.t = self.method(learning_rate, beta1, beta2, eps, weight_decay), 0
        self.moment1 = self.parameters.clone("moment1", init="zeros")
        self.moment2 = self.parameters.clone("moment2", init="zeros")

    def construct(self, gradients):
        for *parameters, gradient in zip(self.parameters, self.moment1, self.moment2, gradients):
            w, m, v = (parameter.asnumpy() for parameter in parameters)
            new, (_, *moments) = self.adam.step(w, gradient.asnumpy(), (self.t, m, v))
            for parameter, array in zip(parameters, (new, *moments)):
                parameter.set_data(Tensor(array.astype(w.dtype)))
        self.t += 1
        return True


IN_MINDSPORE = [
    it for it in EXPECTED if it.__name__ in ("BetasExchanged", "Moment1Sign", "EpsilonHat")
]


class Unfinite(Adam):
    """Leaves nothing but NaN."""

    def update(self, t, m, v, g):
        return np.full(np.shape(m), np.nan)
