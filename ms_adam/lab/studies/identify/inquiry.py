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
    WORDS,
    Finding,
    Identification,
    words,
)
from ms_adam.lab.studies.identify.forms import CHOICES, Form, distinct, roundings, structures
from ms_adam.lab.studies.identify.judge import DOUBLE, HALF, SINGLE, Fit, judge, residual
from ms_adam.lab.studies.identify.relatives import cann, relatives
from ms_adam.lab.targets import Target, find

# A hypothesis that is further off than this is not worth its name.
NEAR = 0.1
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
        # Decay has a run of its own; all others are without it if it can be set.
        self.quiet = {"weight_decay": 0.0} if self.target.takes("weight_decay") else {}
        self.numbers = driver.numbers(weight_decay=0.0)
        self.findings, self.measured = [], {}

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
            seen = self.driver.run(probe, **self.quiet)
        except Refused as refused:
            return Identification(status=REFUSED, formula=f"does not run here: {refused}", **common)
        ranked, residuals = self._rank(seen, probe)
        self.moments = measured.moments(self.driver, **self.quiet)
        if not ranked[0].fits:
            ranked, residuals = self._rank_as_measured(ranked, residuals, seen, probe)
        on_ascend = [judge(form, seen, probe, self.numbers) for form in cann(self.driver.values)]
        if not ranked[0].fits and _unit(seen) == SINGLE:
            # A power of beta that is one unit off takes CANN's further off.
            ranked = sorted([*ranked, *on_ascend], key=Fit.rank)
        best = ranked[0]
        rivals = {fit.form.name() for fit in ranked if fit.fits} - {best.form.name()}
        others = {form: r for form, r in residuals.items() if form.name() != best.form.name()}
        runner = min(others, key=others.get)
        common.update(
            residual=best.residual,
            excess=best.excess,
            next_best=runner.name(),
            next_residual=others[runner],
        )
        if not best.fits:
            unmoved = np.array_equal(seen[-1], probe.start)
            return Identification(status=UNKNOWN, formula=self._unknown(best, unmoved), **common)
        others = self.numbers._asdict().items() - numbers.items()
        runs_with = {role: value for role, value in sorted(others) if role in numbers}
        formula = best.form.name()
        for role, value in runs_with.items():
            formula += f", {role} runs as {value:.8g}"
        if rivals:
            names = " or ".join([formula, *sorted(rivals)])
            return Identification(status=AMBIGUOUS, formula=names, **common)
        if not isinstance(best.form, Form):
            return Identification(status=FOUND, formula=formula, **common)

        self.form = best.form
        self._ask_all(best, ranked, residuals, seen, as_given=not runs_with)
        status = FOUND
        for finding in self.findings:
            over = {"powers": "over many steps", "heeded": "with other numbers"}
            if finding.question in over and finding.status == UNKNOWN:
                status = UNKNOWN
                formula = f"no known formula ({formula}, but not {over[finding.question]})"
            elif finding.question in over and finding.status == IGNORED:
                formula += f", {finding.answer}"
        doubtful = any(
            finding.status in (UNKNOWN, AMBIGUOUS) and finding.question not in ("halves", "rows")
            for finding in self.findings
        )
        plain = replace(best.form, rates="exact", powers="exact") == Form()
        algorithm1 = plain and status == FOUND and not doubtful and formula == best.form.name()
        if on_ascend[0].residual == 0.0:  # all bits
            formula = formula.replace(best.form.name(), on_ascend[0].form.name())
        self.findings.sort(key=lambda finding: list(QUESTIONS).index(finding.question))
        return Identification(
            status=status,
            formula=formula,
            findings=self.findings,
            algorithm1=algorithm1,
            measured=self.measured,
            **common,
        )

    def _unknown(self, best, unmoved):
        formula = "no known formula"
        if unmoved:
            formula += " (the parameter does not move)"
        elif best.residual < NEAR:
            formula += f" (nearest: {best.form.name()})"
            if isinstance(best.form, Form):
                eps = measured.epsilon(self.driver, best.form, self.numbers, **self.quiet)
                if eps is not None and measured.differs(eps, self.numbers.eps):
                    formula += f"; eps runs as {eps:.8g}"
        for role, moment in self.moments.items():
            if moment.stalls and getattr(self.numbers, role) > 0.0:
                formula += f"; the moment of {role} never falls where the gradient is 0"
        decay = self.driver.values["weight_decay"]
        if decay and not self.quiet:
            formula += (
                f"; its weight decay of {decay:g} cannot be set to 0, which the test needs: let "
                "the factory take weight_decay"
            )
        return formula

    def _ask_all(self, best, ranked, residuals, seen, as_given):
        if self.form.corrected != "neither":
            # Over many steps float32 powers of beta part from the exact ones.
            self.progress("many steps")
            self._conclude("powers", self._ask("powers", probes.drift()))
        for axis in ("epsilon", "corrected", "zeros", "moments", "betas", "first_step"):
            self._settle(axis, best, ranked, residuals)
        self._note_first_step(seen)
        for axis in ("nesterov", "amsgrad"):
            self._ask_switch(axis, best, ranked, residuals)
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
        """All hypotheses by residual, and those that come near, judged.

        Whether beta is rounded moves a place by 1e-5: that is tried for those that come near.
        """
        candidates = [*structures(), *relatives(self.driver.values)]
        residuals = {form: residual(form, seen, probe, self.numbers) for form in candidates}
        near = sorted(candidates, key=residuals.get)[:8]
        near += [form for form in candidates if residuals[form] < 1e-2 and form not in near]
        variants = [variant for form in near for variant in roundings(form)]
        fits = [judge(form, seen, probe, self.numbers, _unit(seen)) for form in variants]
        residuals.update((fit.form, fit.residual) for fit in fits)
        return sorted(fits, key=Fit.rank), residuals

    def _rank_as_measured(self, ranked, residuals, seen, probe):
        """As `_rank`, with the decay rates that run, which may make it a known formula."""
        given, self.numbers = self.numbers, measured.with_moments(self.numbers, self.moments)
        if self.numbers != given:
            again, of_these = self._rank(seen, probe)
            if again[0].fits:
                return again, of_these
        self.numbers = given
        return ranked, residuals

    def _settle(self, axis, best, ranked, residuals):
        """A finding from the first run."""
        value = getattr(best.form, axis)

        def other(form):
            return isinstance(form, Form) and getattr(form, axis) != value

        others = {form: r for form, r in residuals.items() if other(form)}
        runner = min(others, key=others.get)
        tie = any(other(fit.form) and fit.fits for fit in ranked)
        status = AMBIGUOUS if tie else FOUND
        self._add(axis, status, words(axis, best.form), best, words(axis, runner), others[runner])
        return value

    def _ask(self, axis, probe, roles=None, numbers=None):
        """The answers to one question, judged by a run of their own."""
        seen = self.driver.run(probe, **{**self.quiet, **(roles or {})})
        return self._judged(axis, seen, probe, numbers or self.numbers)

    def _judged(self, axis, seen, probe, numbers):
        forms = {
            variant
            for choice in CHOICES[axis]
            for variant in roundings(replace(self.form, **{axis: choice}))
            if distinct(variant)
        }
        return [judge(form, seen, probe, numbers, _unit(seen)) for form in forms]

    def _conclude(self, question, fits, axis=None, note="", switched=False):
        """A finding from the fits of one axis; answers of the same words are one."""
        axis = axis or question
        best = min(fits, key=Fit.rank)
        answer = words(axis, best.form)
        runner = min((fit for fit in fits if words(axis, fit.form) != answer), key=Fit.rank)
        status = UNKNOWN if not best.fits else AMBIGUOUS if runner.fits else FOUND
        if switched and status == FOUND and getattr(best.form, axis) == "none":
            status = IGNORED
        self._add(question, status, answer, best, words(axis, runner.form), runner.residual, note)

    def _add(self, question, status, answer, fit=None, next_best=None, next_residual=None, note=""):
        measured = (None, None) if fit is None else (fit.residual, fit.excess)
        self.findings.append(
            Finding(question, status, answer, *measured, next_best, next_residual, note)
        )

    @contextlib.contextmanager
    def _asking(self, question, doing):
        """A run of its own; that the optimizer refuses it is a finding too."""
        self.progress(doing)
        try:
            yield
        except Refused as refused:
            self._add(question, REFUSED, f"refused: {refused}")

    def _note_first_step(self, seen):
        finding = self.findings.pop()
        if self.form.corrected == "neither":
            finding = replace(
                finding, status=FOUND, next_best=None, answer="no count", next_residual=None
            )
        size = abs(seen[0, 0]) / self.numbers.learning_rate
        note = f"of {size:.4g} learning rates for a gradient of 1"
        self.findings.append(replace(finding, note=note))

    def _ask_switch(self, axis, best, ranked, residuals):
        """Nesterov and AMSGrad: as they are, or switched on if there is a switch."""
        name = self.target.argument(axis)
        if name is None or self.target.given(axis) is True:
            value = self._settle(axis, best, ranked, residuals)
            if name is not None and value == "none":
                note = f"{name}=True has no effect"
                self.findings.append(replace(self.findings.pop(), status=IGNORED, note=note))
            return
        with self._asking(axis, f"{name}=True"):
            fits = self._ask(axis, probes.structure(self.numbers.eps), {axis: True})
            self._conclude(axis, fits, note=f"with {name}=True", switched=True)

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
            fits = self._ask("decay", probes.decay(), {**roles, **rate}, numbers)
            if value:
                note = f"with weight_decay={value:g}"
                self._conclude("decay", fits, note=note, switched=name is not None)
            else:  # no decay to place: all hypotheses are one
                best = min(fits, key=Fit.rank)
                self._add("decay", FOUND if best.fits else UNKNOWN, "none", best)

    def _ask_measured(self):
        """The numbers as they act, and where they are not those that were given."""
        given, found, answers = self.driver.numbers(), {}, []
        for role, moment in self.moments.items():
            beta = getattr(given, role)
            found[role], found[f"1 - {role}"] = moment.beta, moment.gain
            if moment.stalls and self.form.zeros == "updated" and beta:
                answers.append(f"the moment of {role} never falls where the gradient is 0")
            elif measured.differs(moment.beta, beta):
                answers.append(f"{role} runs as {moment.beta:.8g}")
            if measured.differs(moment.gain, 1.0 - beta):
                how = measured.taken_in(beta, moment.gain)
                answers.append(f"1 - {role} runs as {moment.gain:.8g}{how}")
        with self._asking("measured", "numbers"):
            eps = measured.epsilon(self.driver, self.form, self.numbers, **self.quiet)
            if eps is not None:
                found["eps"] = eps
                if measured.differs(eps, given.eps):
                    answers.append(f"eps runs as {eps:.8g}")
            if self.target.argument("weight_decay") is not None:
                self._measure_decay(found, answers)
            self.measured = found
            if found:
                note = ", ".join(f"{role} {value:.8g}" for role, value in found.items())
                self._add("measured", FOUND, "; ".join(answers) or "as given", note=note)

    def _measure_decay(self, found, answers):
        rate = {"learning_rate": 0.5} if self.target.takes("learning_rate") else {}
        roles = {"weight_decay": 0.125, **rate}  # exact in float32
        gain = self.moments["beta1"].gain if "beta1" in self.moments else None
        form = next((f.answer for f in self.findings if f.question == "decay"), "")
        forms = [kind for kind, answer in WORDS["decay"].items() if answer == form]
        if not forms or forms == ["none"]:
            return
        numbers = self.driver.numbers(**roles)
        form = replace(self.form, decay=forms[0])
        decay = measured.decay(self.driver, form, numbers.learning_rate, gain, **roles)
        if decay is not None:
            found["weight_decay"] = decay / roles["weight_decay"]
            if measured.differs(found["weight_decay"], 1.0):
                answers.append(f"weight_decay runs as {found['weight_decay']:.8g} of what is given")

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
            self._conclude_heeded(other, self.driver.run(probe, **{**self.quiet, **other}), probe)

    def _conclude_heeded(self, other, seen, probe):
        tried = {}
        for size in range(len(other) + 1):
            for left_out in itertools.combinations(other, size):
                heeded = {role: value for role, value in other.items() if role not in left_out}
                tried[left_out] = self.driver.numbers(weight_decay=0.0, **heeded)
        near = sorted(tried, key=lambda out: residual(self.form, seen, probe, tried[out]))[:3]

        def best_of(left_out):
            numbers, forms = tried[left_out], roundings(self.form)
            fits = [judge(form, seen, probe, numbers, _unit(seen)) for form in forms]
            return min(fits, key=Fit.rank)

        fits = sorted(((out, best_of(out)) for out in near), key=lambda pair: pair[1].rank())
        (left_out, best), (runner_out, runner) = fits[:2]

        def said(out):
            return f"ignores {', '.join(out)}" if out else f"heeds {', '.join(other)}"

        status = UNKNOWN if not best.fits else AMBIGUOUS if runner.fits else FOUND
        if status == FOUND and left_out:
            status = IGNORED
        note = "tried " + ", ".join(f"{role}={value:g}" for role, value in other.items())
        self._add("heeded", status, said(left_out), best, said(runner_out), runner.residual, note)

    def _ask_halves(self):
        """With an epsilon that float16 has, if it can be set."""
        probe = probes.halves()
        eps = {"eps": 1e-4} if self.target.takes("eps") else {}
        numbers = self.driver.numbers(weight_decay=0.0, **eps)
        with self._asking("halves", "float16"):
            seen = self.driver.run(probe, "float16", **self.quiet, **eps)
            forms = [
                form
                for moments in ("float32", "float16", "at rest")
                for form in roundings(replace(self.form, moments=moments), "half")
            ]
            fits = [judge(form, seen, probe, numbers, HALF, weights="float16") for form in forms]
            self._conclude("halves", fits, "moments")

    def _ask_rows(self):
        probe, present = probes.rows()
        with self._asking("rows", "row-sparse gradients"):
            seen = self.driver.run_rows(probe, present, **self.quiet)
            if np.array_equal(seen[-1], probe.start):
                self._add("rows", UNKNOWN, "dropped: the parameter does not move")
            else:
                self._conclude("rows", self._judged("zeros", seen, probe, self.numbers), "zeros")


def _unit(seen):
    """The rounding of the places: float64's only if they hold digits that float32 does not."""
    return SINGLE if np.array_equal(seen, seen.astype(np.float32), equal_nan=True) else DOUBLE
