"""The questions, each asked by a run of its own where the first run can not tell."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from ms_adam.lab.studies.identify import probes
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
    words,
)
from ms_adam.lab.studies.identify.forms import CHOICES, Form, distinct, roundings, structures
from ms_adam.lab.studies.identify.judge import DOUBLE, HALF, SINGLE, Verdict, judge, residual
from ms_adam.lab.studies.identify.relatives import relatives
from ms_adam.lab.studies.identify.target import find

# A hypothesis that is further off than this is not worth its name.
NEAR = 0.1


def identify(path, options=None, progress=lambda doing: None):
    """Identifies an optimizer.

    Args:
        path: "package.module.Class", or "package.module:factory" for a function of a list of
            parameters that returns an optimizer.
        options: keyword arguments for it.
        progress: called with a few words before each run.

    Returns:
        An `Identification`.

    Raises:
        UserError: there is no such optimizer, or it can not be made with these options.
    """
    return identify_target(find(path, options), progress)


def identify_target(target, progress=lambda doing: None):
    """As `identify`, for a `Target`."""
    return _Inquiry(Driver(target), progress).result()


class _Inquiry:
    """The runs of one optimizer, and what follows from each."""

    def __init__(self, driver, progress):
        self.driver = driver
        self.target = driver.target
        self.progress = progress
        # Decay has a run of its own; all others are without it if that can be had.
        self.quiet = {"weight_decay": 0.0} if self.target.takes("weight_decay") else {}
        self.numbers = driver.numbers(weight_decay=0.0)
        self.findings = []

    def result(self):
        common = {
            "target": self.target.name,
            "options": self.target.options,
            "numbers": {
                name: value
                for name, value in self.numbers._asdict().items()
                if name != "weight_decay"
            },
            "assumed": [name for name in self.driver.assumed if name != "weight_decay"],
        }
        self.progress("formula")
        probe = probes.structure(self.numbers.eps)
        try:
            seen = self.driver.run(probe, **self.quiet)
        except Refused as refused:
            return Identification(status=REFUSED, formula=f"does not run here: {refused}", **common)
        ranked, residuals = self._rank(seen, probe)
        best = ranked[0]
        rivals = {v.form.name() for v in ranked if v.fits} - {best.form.name()}
        others = {form: r for form, r in residuals.items() if form.name() != best.form.name()}
        runner = min(others, key=others.get)
        whole = {
            "residual": best.residual,
            "excess": best.excess,
            "next_best": runner.name(),
            "next_residual": others[runner],
        }
        if not best.fits:
            formula = "no known formula"
            if np.array_equal(seen[-1], probe.start):
                formula += " (the parameter does not move)"
            elif best.residual < NEAR:
                formula += f" (nearest: {best.form.name()})"
            if self.driver.values["weight_decay"] and not self.quiet:
                formula += (
                    f"; its weight decay of {self.driver.values['weight_decay']:g} can not "
                    "be set to 0, which the test needs: let the factory take weight_decay"
                )
            return Identification(status=UNKNOWN, formula=formula, **whole, **common)
        if rivals:
            names = " or ".join([best.form.name(), *sorted(rivals)])
            return Identification(status=AMBIGUOUS, formula=names, **whole, **common)
        formula = best.form.name()
        if not isinstance(best.form, Form):
            return Identification(status=FOUND, formula=formula, **whole, **common)

        self.form = best.form
        status = FOUND
        self._ask_powers()
        for axis in ("epsilon", "corrected", "zeros", "moments", "betas", "first_step"):
            self._settle(axis, best, ranked, residuals)
        self._note_first_step(seen)
        for axis in ("nesterov", "amsgrad"):
            self._ask_switch(axis, best, ranked, residuals)
        self._ask_decay()
        self._ask_numbers()
        if self.driver.kind != "numpy":
            self._ask_halves()
        if self.driver.kind == "mindspore":
            self._ask_rows()
        for question, words in (("powers", "over many steps"), ("heeded", "with other numbers")):
            finding = next((f for f in self.findings if f.question == question), None)
            if finding is not None and finding.status == UNKNOWN:
                status, formula = UNKNOWN, f"no known formula ({formula}, but not {words})"
            elif finding is not None and finding.status == IGNORED:
                formula += f", {finding.answer}"
        doubtful = [
            f
            for f in self.findings
            if f.status in (UNKNOWN, AMBIGUOUS) and f.question not in ("halves", "rows")
        ]
        plain = replace(best.form, rates="exact", powers="exact") == Form()
        self.findings.sort(key=lambda finding: list(QUESTIONS).index(finding.question))
        return Identification(
            status=status,
            formula=formula,
            findings=self.findings,
            **whole,
            **common,
            algorithm1=plain and status == FOUND and not doubtful and "ignores" not in formula,
        )

    def _rank(self, seen, probe):
        """All hypotheses by residual, and those that come near, judged.

        Whether beta is rounded moves a place by 1e-5: that is tried for those that come near.
        """
        candidates = [*structures(), *relatives(self.driver.values)]
        residuals = {form: residual(form, seen, probe, self.numbers) for form in candidates}
        near = sorted(candidates, key=residuals.get)[:8]
        near += [form for form in candidates if residuals[form] < 1e-2 and form not in near]
        variants = [variant for form in near for variant in roundings(form)]
        verdicts = [judge(form, seen, probe, self.numbers, _unit(seen)) for form in variants]
        for verdict in verdicts:
            residuals[verdict.form] = verdict.residual
        return sorted(verdicts, key=Verdict.rank), residuals

    def _settle(self, axis, best, ranked, residuals):
        """A finding from the first run."""
        value = getattr(best.form, axis)
        others = {
            form: r
            for form, r in residuals.items()
            if isinstance(form, Form) and getattr(form, axis) != value
        }
        runner = min(others, key=others.get)
        tie = any(
            isinstance(v.form, Form) and v.fits and getattr(v.form, axis) != value for v in ranked
        )
        self._add(
            axis,
            AMBIGUOUS if tie else FOUND,
            words(axis, best.form),
            best,
            words(axis, runner),
            others[runner],
        )
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

    def _conclude(self, question, axis, verdicts, note="", switched=False):
        """A finding from the verdicts of one axis; answers of the same words are one."""

        def said(verdict):
            return words(axis, verdict.form)

        best = min(verdicts, key=Verdict.rank)
        others = [verdict for verdict in verdicts if said(verdict) != said(best)]
        runner = min(others, key=Verdict.rank)
        status = UNKNOWN if not best.fits else AMBIGUOUS if runner.fits else FOUND
        if switched and status == FOUND and getattr(best.form, axis) == "none":
            status = IGNORED
        self._add(question, status, said(best), best, said(runner), runner.residual, note)

    def _add(
        self, question, status, answer, verdict=None, next_best=None, next_residual=None, note=""
    ):
        measured = (None, None) if verdict is None else (verdict.residual, verdict.excess)
        self.findings.append(
            Finding(question, status, answer, *measured, next_best, next_residual, note)
        )

    def _refused(self, question, refused):
        self._add(question, REFUSED, f"refused: {refused}")

    def _ask_powers(self):
        """Over many steps, where float32 powers of beta part from the exact ones."""
        if self.form.corrected == "neither":
            return
        self.progress("many steps")
        self._conclude("powers", "powers", self._ask("powers", probes.drift()))

    def _note_first_step(self, seen):
        i = next(i for i, f in enumerate(self.findings) if f.question == "first_step")
        if self.form.corrected == "neither":
            self.findings[i] = replace(
                self.findings[i],
                status=FOUND,
                next_best=None,
                answer="no count",
                next_residual=None,
            )
        size = abs(seen[0, 0]) / self.numbers.learning_rate
        self.findings[i] = replace(
            self.findings[i], note=f"of {size:.4g} learning rates for a gradient of 1"
        )

    def _ask_switch(self, axis, best, ranked, residuals):
        """Nesterov and AMSGrad: as they are, or switched on if there is a switch."""
        name = self.target.argument(axis)
        if name is None or self.target.given(axis) is True:
            value = self._settle(axis, best, ranked, residuals)
            if name is not None and value == "none":
                self.findings[-1] = replace(
                    self.findings[-1], status=IGNORED, note=f"{name}=True has no effect"
                )
            return
        self.progress(f"{name}=True")
        note = f"with {name}=True"
        try:
            verdicts = self._ask(axis, probes.structure(self.numbers.eps), {axis: True})
        except Refused as refused:
            self._refused(axis, refused)
            return
        self._conclude(axis, axis, verdicts, note, switched=True)

    def _ask_decay(self):
        """At a large learning rate, if it can be had: then weights lose many digits to it."""
        self.progress("weight decay")
        name = self.target.argument("weight_decay")
        value = self.driver.values["weight_decay"]
        if name is not None and name not in self.target.options:
            value = 0.1
        roles = {"weight_decay": value} if name is not None else {}
        numbers = self.driver.numbers(weight_decay=value)
        if self.target.takes("learning_rate"):
            roles["learning_rate"] = 0.1
            numbers = self.driver.numbers(weight_decay=value, learning_rate=0.1)
        try:
            verdicts = self._ask("decay", probes.decay(), roles, numbers)
        except Refused as refused:
            self._refused("decay", refused)
            return
        if value:
            self._conclude(
                "decay",
                "decay",
                verdicts,
                f"with weight_decay={value:g}",
                switched=name is not None,
            )
        else:  # nothing to place: all hypotheses are one
            best = min(verdicts, key=Verdict.rank)
            self._add("decay", FOUND if best.fits else UNKNOWN, "none", best)

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
        self.progress("other numbers")
        probe = probes.structure(other.get("eps", self.numbers.eps))
        try:
            seen = self.driver.run(probe, **{**self.quiet, **other})
        except Refused as refused:
            self._refused("heeded", refused)
            return
        tried = {}
        for size in range(len(other) + 1):
            for left_out in itertools.combinations(other, size):
                heeded = {role: value for role, value in other.items() if role not in left_out}
                tried[left_out] = self.driver.numbers(weight_decay=0.0, **heeded)
        near = sorted(tried, key=lambda out: residual(self.form, seen, probe, tried[out]))[:3]
        verdicts = [
            (
                left_out,
                min(
                    (
                        judge(form, seen, probe, tried[left_out], _unit(seen))
                        for form in roundings(self.form)
                    ),
                    key=Verdict.rank,
                ),
            )
            for left_out in near
        ]
        verdicts.sort(key=lambda pair: pair[1].rank())
        (left_out, best), (runner_out, runner) = verdicts[:2]

        def said(out):
            return f"ignores {', '.join(out)}" if out else f"heeds {', '.join(other)}"

        status = UNKNOWN if not best.fits else AMBIGUOUS if runner.fits else FOUND
        if status == FOUND and left_out:
            status = IGNORED
        self._add(
            "heeded",
            status,
            said(left_out),
            best,
            said(runner_out),
            runner.residual,
            "tried " + ", ".join(f"{role}={value:g}" for role, value in other.items()),
        )

    def _ask_halves(self):
        """With an epsilon that float16 has, if it can be had."""
        self.progress("float16")
        probe = probes.halves()
        eps = {"eps": 1e-4} if self.target.takes("eps") else {}
        try:
            seen = self.driver.run(probe, "float16", **self.quiet, **eps)
        except Refused as refused:
            self._refused("halves", refused)
            return
        numbers = self.driver.numbers(weight_decay=0.0, **eps)
        forms = [
            form
            for moments in ("float32", "float16", "at rest")
            for form in roundings(replace(self.form, moments=moments), "half")
        ]
        self._conclude(
            "halves",
            "moments",
            [judge(form, seen, probe, numbers, HALF, weights="float16") for form in forms],
        )

    def _ask_rows(self):
        self.progress("row-sparse gradients")
        probe, present = probes.rows()
        try:
            seen = self.driver.run_rows(probe, present, **self.quiet)
        except Refused as refused:
            self._refused("rows", refused)
            return
        if np.array_equal(seen[-1], probe.start):
            self._add("rows", UNKNOWN, "dropped: the parameter does not move")
            return
        self._conclude("rows", "zeros", self._judged("zeros", seen, probe, self.numbers))


def _unit(seen):
    """The rounding of what was seen: float64's only if it holds what float32 does not."""
    return SINGLE if np.array_equal(seen, seen.astype(np.float32), equal_nan=True) else DOUBLE
