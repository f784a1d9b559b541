"""The hypotheses: every way of writing Adam that is told from the others, in NumPy.

`ms_adam.reference.Adam` states the published formulas. Implementations also correct one moment
only, take AMSGrad's maximum after the correction, decay without the learning rate, or count from 2,
and they round: `Form` has all of these, and is carried out in float32 too, which the reference is
not. Tests hold it to `reference.Adam` wherever both state the same formula.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ms_adam.reference.correction import bias_correction


class Numbers(NamedTuple):
    """The numbers that an optimizer was given."""

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Form:
    """One way to write Adam: a choice of `WORDS` for each field."""

    epsilon: str = "outside"  # Algorithm 1 of Kingma & Ba 2015
    corrected: str = "both"  # the bias-corrected moments
    # "shared": beta1 m + (1 - beta1) g under the correction of this step, as in TensorFlow and
    # MindSpore; "own": Dozat 2016.
    nesterov: str = "none"
    amsgrad: str = "none"  # when the largest second moment so far is taken
    # "decoupled": w also loses learning_rate * weight_decay * w; "unscaled": weight_decay * w.
    decay: str = "none"
    first_step: int = 1  # t in the first step
    zeros: str = "updated"  # elements whose gradient is 0; "updated" as published
    betas: str = "as given"
    # beta in the moments "exact", "rounded" to float32, or to float16, "half". 1 - 0.999 is then
    # off by 1.3e-5 or by 2.3%.
    rates: str = "exact"
    # beta^t in the corrections "exact", or "narrowed" to float32; for a beta rounded to float32
    # exact, "rounded"; or itself rounded, "single"; or multiplied up in float32 step by step, which
    # "drifts".
    powers: str = "exact"
    # Kept in "float32" or better (here: unrounded); "float16"; "at rest": float16 between steps,
    # unrounded in the update; "bfloat16".
    moments: str = "float32"

    rounds_powers = True  # `powers` says how beta^t is rounded

    def walk(
        self, numbers: Numbers, gradients, start, dtype=np.float64, weights: str = "float32"
    ) -> np.ndarray:
        """The places of a parameter after each step, float64 of shape (steps, elements).

        Args:
            numbers: The optimizer's numbers.
            gradients: Array of shape (steps, elements).
            start: Array of shape (elements,).
            dtype: Of all arithmetic; float32 shows how far rounding takes the formula.
            weights: The precision of the parameter between steps, as `moments`.
        """
        alpha, beta1, beta2, eps, decay = (float(x) for x in numbers)
        if self.betas == "exchanged":
            beta1, beta2 = beta2, beta1
        corrections1 = self._corrections(beta1, self.corrected in ("both", "first"))
        corrections2 = self._corrections(beta2, self.corrected in ("both", "second"))
        if self.rates != "exact":
            narrow = np.float16 if self.rates == "half" else np.float32
            beta1, beta2 = float(narrow(beta1)), float(narrow(beta2))
        w = np.asarray(start, dtype)
        m, v, largest = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
        places = []
        with np.errstate(all="ignore"):  # epsilon "none" divides 0 by 0
            for raw, (c1, next1), (c2, _) in zip(
                np.asarray(gradients, dtype), corrections1, corrections2
            ):
                before = w, m, v, largest
                g = raw + decay * w if self.decay == "L2" else raw
                m = rounded(beta1 * m + (1 - beta1) * g, self.moments)
                v = rounded(beta2 * v + (1 - beta2) * np.square(g), self.moments)

                mhat, vhat = m / c1, v / c2
                if self.nesterov == "shared":
                    mhat = (beta1 * m + (1 - beta1) * g) / c1
                elif self.nesterov == "own":
                    mhat = beta1 * m / next1 + (1 - beta1) * g / c1
                if self.amsgrad == "before":
                    largest = np.maximum(largest, v)
                    vhat = largest / c2
                elif self.amsgrad == "after":
                    vhat = largest = np.maximum(largest, vhat)

                if self.epsilon == "inside":
                    root = np.sqrt(vhat + eps)
                else:
                    scale = {"outside": 1.0, "hat": c2**-0.5, "none": 0.0}[self.epsilon]
                    root = np.sqrt(vhat) + eps * scale
                step = alpha * mhat / root
                if self.decay == "decoupled":
                    step = step + alpha * decay * w
                elif self.decay == "unscaled":
                    step = step + decay * w
                w = rounded(w - step, weights)
                if self.moments == "at rest":
                    m, v = rounded(m, "float16"), rounded(v, "float16")
                if self.zeros == "left":
                    now = w, m, v, largest
                    w, m, v, largest = (np.where(raw == 0.0, *pair) for pair in zip(before, now))
                places.append(w)
        return np.array(places, np.float64)

    def _corrections(self, beta: float, corrected: bool) -> Iterator[tuple[float, float]]:
        """1 - beta^t of each step and of the next one; 1 where there is no correction."""
        if not corrected:
            return itertools.repeat((1.0, 1.0))
        if self.powers not in ("exact", "narrowed"):
            beta = float(np.float32(beta))
        if self.powers in ("narrowed", "single", "drifts"):
            if self.powers != "drifts":
                powers = (np.float32(beta**t) for t in itertools.count())
            else:
                factors = itertools.chain([np.float32(1.0)], itertools.repeat(np.float32(beta)))
                powers = itertools.accumulate(factors, np.multiply)
            values = (float(np.float32(1.0) - power) for power in powers)
            values = itertools.islice(values, self.first_step, None)
        else:
            values = (bias_correction(beta, t) for t in itertools.count(self.first_step))
        this, following = itertools.tee(values)
        return zip(this, itertools.islice(following, 1, None))

    def name(self) -> str:
        """In words; decay, powers and moments are told apart from it."""
        corrected, epsilon, *others = (
            names.get(getattr(self, axis)) for axis, names in _NAMES.items()
        )
        base = [words for words in (corrected, epsilon) if words] or ["Algorithm 1"]
        return ", ".join([*base, *filter(None, others)])

    def answer(self, axis: str) -> str:
        """The words of `WORDS`; a maximum with no correction is neither before nor after it."""
        if axis == "amsgrad" and self.amsgrad != "none" and self.corrected in ("first", "neither"):
            return "maximum"
        return WORDS[axis][getattr(self, axis)]


def rounded(x: np.ndarray, kind: str) -> np.ndarray:
    """x rounded to a dtype of fewer digits, in its own dtype; "float32" leaves it as it is."""
    if kind == "float16":
        return x.astype(np.float16).astype(x.dtype)
    if kind == "bfloat16":  # the upper half of a float32, to nearest, ties to even
        bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
        bits = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) & np.uint64(0xFFFF0000)
        return bits.astype(np.uint32).view(np.float32).astype(x.dtype)
    return x


# What is tried for each field of `Form`, "half" with float16 parameters only, in words: choices of
# the same words are one answer.
WORDS = {
    "epsilon": {
        "outside": "outside the root, after correction",
        "hat": "outside the root, before correction",
        "inside": "inside the root",
        "none": "none",
    },
    "corrected": {
        "both": "both moments",
        "first": "first moment only",
        "second": "second moment only",
        "neither": "none",
    },
    "nesterov": {
        "none": "none",
        "shared": "both parts under this step's correction",
        "own": "each part under its own correction (Dozat)",
    },
    "amsgrad": {
        "none": "none",
        "before": "maximum before correction",
        "after": "maximum after correction",
    },
    "decay": {
        "none": "none",
        "L2": "L2, added to the gradient",
        "decoupled": "decoupled, times the learning rate",
        "unscaled": "decoupled, not times the learning rate",
    },
    "first_step": {1: "t = 1", 2: "t = 2: counted once too often"},
    "zeros": {"updated": "updated (exact)", "left": "left alone (lazy)"},
    "betas": {"as given": "as given", "exchanged": "beta1 and beta2 exchanged"},
    "rates": {"exact": "exact", "rounded": "float32", "half": "float16"},
    "powers": {
        "exact": "no drift",
        "rounded": "no drift",
        "single": "no drift",
        "drifts": "drifts: float32 powers multiplied up",
        "narrowed": "no drift",
    },
    "moments": {
        "float32": "float32 or better",
        "float16": "float16",
        "at rest": "float16",
        "bfloat16": "bfloat16",
    },
}
# What a choice adds to the name of a formula.
_NAMES = {
    "corrected": {
        "first": "only the first moment corrected",
        "second": "only the second moment corrected",
        "neither": "no bias correction",
    },
    "epsilon": {"hat": "epsilon-hat", "inside": "epsilon inside the root", "none": "no epsilon"},
    "nesterov": {"shared": "Nesterov", "own": "Nesterov (Dozat)"},
    "amsgrad": {"before": "AMSGrad (before correction)", "after": "AMSGrad (after correction)"},
    "first_step": {2: "steps counted from 2"},
    "zeros": {"left": "elements of zero gradient left out"},
    "betas": {"exchanged": "beta1 and beta2 exchanged"},
    "moments": {
        "float16": "float16 moments",
        "at rest": "float16 moments",
        "bfloat16": "bfloat16 moments",
    },
}


def roundings(form, *half: str) -> list:
    """The form with each way to round beta; with "half" as second argument, that too."""
    if not isinstance(form, Form):
        return [form]
    return [
        replace(form, rates=rates, powers=powers)
        for rates in ("exact", "rounded", *half)
        for powers in WORDS["powers"]
    ]


def distinct(form: Form) -> bool:
    """Whether a form differs from all with an earlier choice of WORDS.

    Without correction of the second moment nothing comes before or after it; without correction of
    the first, Dozat's parts have none; without either, steps are not counted.
    """
    first, second = form.corrected in ("both", "first"), form.corrected in ("both", "second")
    return (
        (second or (form.epsilon != "hat" and form.amsgrad != "after"))
        and (first or form.nesterov != "own")
        and (first or second or form.first_step == 1)
    )


def structures() -> list[Form]:
    """All distinct forms, without decay and in exact arithmetic.

    Zeros that are left, exchanged betas and narrow moments are combined with the plain forms only.
    """
    names = ("epsilon", "corrected", "nesterov", "amsgrad", "first_step")
    choices = itertools.product(*(WORDS[name] for name in names))
    forms = [Form(**dict(zip(names, values))) for values in choices]
    forms += [
        replace(form, **{name: value})
        for form in forms
        if form.nesterov == form.amsgrad == "none" and form.first_step == 1
        for name in ("zeros", "betas", "moments")
        for value in list(WORDS[name])[1:]
    ]
    return [form for form in forms if distinct(form)]
