"""The questions, each asked by a run of its own where the first run cannot tell."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace
from typing import Callable, Optional

import numpy as np

from ms_adam.lab.studies.identify import measured, partial_import, probes, storage
from ms_adam.lab.studies.identify.driver import Driver, Refused
from ms_adam.lab.studies.identify.findings import (
    AMBIGUOUS,
    FOUND,
    IGNORED,
    QUESTIONS,
    REFUSED,
    UNKNOWN,
    Finding,
    Identification,
)
from ms_adam.lab.studies.identify.forms import WORDS, Form, distinct, roundings, structures
from ms_adam.lab.studies.identify.judge import HALF, SINGLE, Fit, judge, residual, unit_of
from ms_adam.lab.studies.identify.relatives import cann, relatives
from ms_adam.lab.targets import Target, find

# A hypothesis that is further off than this is not worth its name.
NEAR = 0.1
_STALLS = "the moment of {} never falls where the gradient is 0"
_STORAGE = "state_dtype"  # the argument of ours that says how moments are kept


def identify(
    path: str, options: Optional[dict] = None, progress: Callable[[str], None] = lambda doing: None
) -> Identification:
    """Identifies an optimizer.

    Args:
        path: "package.module.Class", or "package.module:factory" for a function of a list of
            parameters that returns an optimizer.
        options: Keyword arguments for it.
        progress: Called with a few words before each run.

    Raises:
        UserError: The optimizer is unknown, or cannot be made with these options.
    """
    partial_import.prepare(path)
    return identify_target(find(path, options), progress)


def identify_target(
    target: Target, progress: Callable[[str], None] = lambda doing: None
) -> Identification:
    """As `identify`, for a `Target`.

    Moments that are rounded stochastically hide a formula. If the optimizer can keep them in
    float32 (`state_dtype`), that is how its formula is found, and how they are kept is added.
    """
    driver = Driver(target)
    progress("storage")
    kept = storage.stochastic(driver)
    if kept is None:
        return _Inquiry(driver, progress).result()
    wide = target._replace(options={**target.options, _STORAGE: "float32"})
    can_widen = _STORAGE in target.options
    found = _Inquiry(Driver(wide) if can_widen else driver, progress).result()
    note = f"the formula is that with {_STORAGE}='float32'" if can_widen else ""
    others = [finding for finding in found.findings if finding.question != "moments"]
    return replace(
        found,
        options=target.options,
        formula=f"{found.formula}; moments kept in {kept}",
        findings=[*others, Finding("moments", FOUND, kept, note=note)],
    )


class _Inquiry:
    """The runs of one optimizer, and the findings from each."""

    def __init__(self, driver, progress):
        self.driver, self.target, self.progress = driver, driver.target, progress
        self.numbers = driver.numbers()
        self.findings, self.measured = {}, {}

    def result(self):
        numbers = self.numbers._asdict()
        del numbers["weight_decay"]
        common = {
            "target": self.target.name,
            "options": self.target.options,
            "numbers": numbers,
            "assumed": [name for name in self.driver.assumed if name != "weight_decay"],
        }
        self.progress("formula")
        probe = probes.structure(self.numbers.eps)
        try:
            seen = self.driver.run(probe)
        except Refused as refused:
            return Identification(status=REFUSED, formula=f"does not run here: {refused}", **common)
        self.ranked = self._rank(seen, probe)
        self.moments = measured.moments(self.driver)
        if not self.ranked[0].fits:
            self._rank_as_measured(seen, probe)
        on_ascend = self._judge(cann(self.driver.values), seen, probe)
        best, known = self.ranked[0], self.ranked
        if not best.fits and unit_of(seen) == SINGLE:
            # A power of beta that is one unit off takes CANN's further off.
            best = min([best, *on_ascend], key=Fit.rank)
            known = [*known, *on_ascend]
        name = best.form.name()
        others = [fit for fit in self.ranked if fit.form.name() != name]
        runner = min(others, key=lambda fit: fit.residual)
        common.update(
            residual=best.residual,
            excess=best.excess,
            next_best=runner.form.name(),
            next_residual=runner.residual,
        )
        if not best.fits:
            unmoved = np.array_equal(seen[-1], probe.start)
            return Identification(status=UNKNOWN, formula=self._unknown(best, unmoved), **common)
        others = self.numbers._asdict().items() - numbers.items()
        runs_with = {role: value for role, value in sorted(others) if role in numbers}
        formula = name
        for role, value in runs_with.items():
            formula += f", {role} runs as {value:.8g}"
        rivals = {fit.form.name() for fit in known if fit.fits} - {name}
        if rivals:
            names = " or ".join([formula, *sorted(rivals)])
            return Identification(status=AMBIGUOUS, formula=names, **common)
        if not isinstance(best.form, Form):
            return Identification(status=FOUND, formula=formula, **common)

        self.form = best.form
        self._ask_all(seen, as_given=not runs_with)
        status = FOUND
        for question, when in (("powers", "over many steps"), ("heeded", "with other numbers")):
            finding = self.findings.get(question)
            if finding and finding.status == UNKNOWN:
                status = UNKNOWN
                formula = f"no known formula ({formula}, but not {when})"
            elif finding and finding.status == IGNORED:
                formula += f", {finding.answer}"
        doubtful = any(
            finding.status in (UNKNOWN, AMBIGUOUS) and question not in ("halves", "rows")
            for question, finding in self.findings.items()
        )
        plain = replace(self.form, rates="exact", powers="exact") == Form()
        algorithm1 = plain and status == FOUND and not doubtful and formula == name
        if on_ascend[0].residual == 0.0:  # all bits
            formula = formula.replace(name, on_ascend[0].form.name())
        return Identification(
            status=status,
            formula=formula,
            findings=[self.findings[it] for it in QUESTIONS if it in self.findings],
            algorithm1=algorithm1,
            measured=self.measured,
            **common,
        )

    def _unknown(self, best, unmoved):
        said = ["no known formula"]
        if unmoved:
            said[0] += " (the parameter does not move)"
        elif best.residual < NEAR:
            said[0] += f" (nearest: {best.form.name()})"
            if isinstance(best.form, Form):
                eps = measured.epsilon(self.driver, best.form, self.numbers)
                said += measured.remarks("eps", eps, self.numbers.eps)
        for role, moment in self.moments.items():
            if moment.stalls and getattr(self.numbers, role) > 0.0:
                said.append(_STALLS.format(role))
        decay = self.driver.values["weight_decay"]
        if decay and not self.driver.quiet:
            said.append(
                f"its weight decay of {decay:g} cannot be set to 0, which the test needs: let the "
                "factory take weight_decay"
            )
        return "; ".join(said)

    def _ask_all(self, seen, as_given):
        if self.form.corrected != "neither":
            # Over many steps float32 powers of beta part from the exact ones.
            self.progress("many steps")
            self._conclude("powers", self._ask("powers", probes.drift()))
        for axis in ("epsilon", "corrected", "zeros", "moments", "betas"):
            self._settle(axis)
        size = abs(seen[0, 0]) / self.numbers.learning_rate
        note = f"of {size:.4g} learning rates for a gradient of 1"
        if self.form.corrected == "neither":
            self._add("first_step", [("no count", self.ranked[0])], note)
        else:
            self._settle("first_step", note=note)
        for axis in ("nesterov", "amsgrad"):
            self._ask_switch(axis)
        self._ask_decay()
        self._ask_measured()
        if not as_given:
            return  # other questions set other numbers, and nobody knows which then run
        self._ask_numbers()
        if self.driver.kind != "numpy":
            self._ask_halves()
        if self.driver.kind == "mindspore":
            self._ask_rows()

    def _rank(self, seen, probe):
        """All hypotheses by residual; those that come near are judged, the others do not fit.

        Whether beta is rounded moves a place by 1e-5: that is tried for those that come near.
        """
        candidates = [*structures(), *relatives(self.driver.values)]
        residuals = {form: residual(form, seen, probe, self.numbers) for form in candidates}
        near = sorted(candidates, key=residuals.get)[:8]
        near += [form for form in candidates if residuals[form] < 1e-2 and form not in near]
        variants = [variant for form in near for variant in roundings(form)]
        fits = {form: Fit(form, value, np.inf) for form, value in residuals.items()}
        fits.update((fit.form, fit) for fit in self._judge(variants, seen, probe))
        return sorted(fits.values(), key=Fit.rank)

    def _rank_as_measured(self, seen, probe):
        """Ranks with the decay rates that run, where that makes it a known formula."""
        given, self.numbers = self.numbers, measured.with_moments(self.numbers, self.moments)
        if self.numbers != given:
            again = self._rank(seen, probe)
            if again[0].fits:
                self.ranked = again
                return
        self.numbers = given

    def _judge(self, forms, seen, probe, numbers=None, **how):
        return [judge(form, seen, probe, numbers or self.numbers, **how) for form in forms]

    def _settle(self, axis, **more):
        """A finding from the first run."""
        best, value = self.ranked[0], getattr(self.form, axis)
        forms = (fit for fit in self.ranked if isinstance(fit.form, Form))
        self._conclude(
            axis, [best, *(it for it in forms if getattr(it.form, axis) != value)], **more
        )

    def _ask(self, axis, probe, numbers=None, **roles):
        """The answers to one question, judged by a run of their own."""
        return self._answers(axis, self.driver.run(probe, **roles), probe, numbers)

    def _answers(self, axis, seen, probe, numbers=None):
        choices = [replace(self.form, **{axis: choice}) for choice in WORDS[axis]]
        forms = {variant for choice in choices for variant in roundings(choice)}
        return self._judge(filter(distinct, forms), seen, probe, numbers)

    def _conclude(self, question, fits, axis=None, **more):
        """A finding from the fits of one axis."""
        self._add(question, [(fit.form.answer(axis or question), fit) for fit in fits], **more)

    def _add(self, question, answers, note="", without_effect=()):
        """A finding from pairs of an answer and its fit; equal answers are one.

        An answer that is found and in `without_effect` says that an option was ignored.
        """
        answer, best = min(answers, key=_rank_of_answer)
        others = [pair for pair in answers if pair[0] != answer]
        other, runner = min(others, key=_rank_of_answer, default=(None, None))
        status = FOUND if best.fits else UNKNOWN
        if best.fits and runner and runner.fits:
            status = AMBIGUOUS
        elif best.fits and answer in without_effect:
            status = IGNORED
        self.findings[question] = Finding(
            question,
            status,
            answer,
            best.residual,
            best.excess,
            other,
            runner and runner.residual,
            note,
        )

    def _say(self, question, status, answer, note=""):
        """A finding that compares no formulas."""
        self.findings[question] = Finding(question, status, answer, note=note)

    @contextlib.contextmanager
    def _asking(self, question, doing):
        """A run of its own; that the optimizer refuses it is a finding too."""
        self.progress(doing)
        try:
            yield
        except Refused as refused:
            self._say(question, REFUSED, f"refused: {refused}")

    def _ask_switch(self, axis):
        """Nesterov and AMSGrad: as they are, or switched on if there is a switch."""
        name = self.target.argument(axis)
        if name is None:
            self._settle(axis)
        elif self.target.given(axis) is True:
            note = f"{name}=True has no effect" if getattr(self.form, axis) == "none" else ""
            self._settle(axis, note=note, without_effect=("none",))
        else:
            with self._asking(axis, f"{name}=True"):
                fits = self._ask(axis, probes.structure(self.numbers.eps), **{axis: True})
                self._conclude(axis, fits, note=f"with {name}=True", without_effect=("none",))

    def _ask_decay(self):
        """At a large learning rate, if it can be set: then weights lose many digits to it."""
        name = self.target.argument("weight_decay")
        value = self.driver.values["weight_decay"]
        if name is not None and name not in self.target.options:
            value = 0.1
        roles = {"weight_decay": value} if name is not None else {}
        rate = {"learning_rate": 0.1} if self.target.takes("learning_rate") else {}
        betas = {role: getattr(self.numbers, role) for role in ("beta1", "beta2")}
        numbers = self.driver.numbers(weight_decay=value, **betas, **rate)
        with self._asking("decay", "weight decay"):
            fits = self._ask("decay", probes.decay(), numbers, **roles, **rate)
            if value:
                note, none = f"with weight_decay={value:g}", () if name is None else ("none",)
                self._conclude("decay", fits, note=note, without_effect=none)
            else:  # no decay to place: all hypotheses are one
                self._add("decay", [("none", fit) for fit in fits])

    def _ask_measured(self):
        """The numbers as they act, and where they are not those that were given."""
        given, found, answers = self.driver.numbers(), {}, []
        for role, moment in self.moments.items():
            beta = getattr(given, role)
            found[role], found[f"1 - {role}"] = moment.beta, moment.gain
            if moment.stalls and self.form.zeros == "updated" and beta:
                answers.append(_STALLS.format(role))
            else:
                answers += measured.remarks(role, moment.beta, beta)
            how = measured.taken_in(beta, moment.gain)
            answers += measured.remarks(f"1 - {role}", moment.gain, 1.0 - beta, how)
        with self._asking("measured", "numbers"):
            found["eps"] = measured.epsilon(self.driver, self.form, self.numbers)
            answers += measured.remarks("eps", found["eps"], given.eps)
            found["weight_decay"] = decay = self._share_of_decay()
            answers += measured.remarks("weight_decay", decay, 1.0, " of what is given")
            found = {name: value for name, value in found.items() if value is not None}
            self.measured = found
            if found:
                note = ", ".join(f"{role} {value:.8g}" for role, value in found.items())
                self._say("measured", FOUND, "; ".join(answers) or "as given", note=note)

    def _share_of_decay(self):
        """The weight decay that acts, as a share of what is given; None if it is not known."""
        answer = self.findings["decay"].answer
        kinds = [kind for kind, words in WORDS["decay"].items() if words == answer != "none"]
        if not kinds or self.target.argument("weight_decay") is None:
            return None
        rate = {"learning_rate": 0.5} if self.target.takes("learning_rate") else {}
        roles = {"weight_decay": 0.125, **rate}  # exact in float32
        gain = self.moments["beta1"].gain if "beta1" in self.moments else None
        form, alpha = replace(self.form, decay=kinds[0]), self.driver.numbers(**rate).learning_rate
        decay = measured.decay(self.driver, form, alpha, gain, **roles)
        return decay and decay / roles["weight_decay"]

    def _ask_numbers(self):
        """Whether other numbers than the first are heeded."""
        other = {
            "learning_rate": 4 * self.numbers.learning_rate,
            "beta1": 0.8,
            "beta2": 0.98,
            "eps": max(100 * self.numbers.eps, 1e-6),
        }
        other = {role: value for role, value in other.items() if self.target.takes(role)}
        if not other:
            return
        with self._asking("heeded", "other numbers"):
            probe = probes.structure(other.get("eps", self.numbers.eps))
            self._conclude_heeded(other, self.driver.run(probe, **other), probe)

    def _conclude_heeded(self, other, seen, probe):
        tried = {}
        for size in range(len(other) + 1):
            for left_out in itertools.combinations(other, size):
                heeded = {role: value for role, value in other.items() if role not in left_out}
                words = (
                    f"ignores {', '.join(left_out)}" if left_out else f"heeds {', '.join(other)}"
                )
                tried[words] = self.driver.numbers(**heeded)
        near = sorted(tried, key=lambda words: residual(self.form, seen, probe, tried[words]))[:3]
        answers = [
            (words, fit)
            for words in near
            for fit in self._judge(roundings(self.form), seen, probe, tried[words])
        ]
        note = "tried " + ", ".join(f"{role}={value:g}" for role, value in other.items())
        self._add("heeded", answers, note, without_effect=list(tried)[1:])

    def _ask_halves(self):
        """With an epsilon that float16 has, if it can be set."""
        probe = probes.halves()
        eps = {"eps": 1e-4} if self.target.takes("eps") else {}
        with self._asking("halves", "float16"):
            seen = self.driver.run(probe, "float16", **eps)
            forms = [
                form
                for moments in ("float32", "float16", "at rest")
                for form in roundings(replace(self.form, moments=moments), "half")
            ]
            how = {"unit": HALF, "weights": "float16"}
            fits = self._judge(forms, seen, probe, self.driver.numbers(**eps), **how)
            self._conclude("halves", fits, "moments")

    def _ask_rows(self):
        probe, present = probes.rows()
        with self._asking("rows", "row-sparse gradients"):
            seen = self.driver.run_rows(probe, present)
            if np.array_equal(seen[-1], probe.start):
                self._say("rows", UNKNOWN, "dropped: the parameter does not move")
            else:
                self._conclude("rows", self._answers("zeros", seen, probe), "zeros")


def _rank_of_answer(pair):
    return pair[1].rank()
