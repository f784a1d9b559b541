"""The page docs/conformance.md: what every Adam around MindSpore computes."""

from __future__ import annotations

from collections.abc import Sequence

from ms_adam.lab.run.environment import version
from ms_adam.lab.run.results import markdown
from ms_adam.lab.studies.identify import partial_import
from ms_adam.lab.studies.identify.findings import REFUSED, Identification
from ms_adam.lab.studies.identify.tables import CONFORMANCE, conformance_row, title

PACKAGES = ("mindspore", "mindcv", "mindformers", "mindone", "mindnlp", "mindocr", "ms_adam")
_HEAD = """# What every Adam around MindSpore computes

`ms-adam identify --ecosystem` measured this page on the CPU, and printed it, with
{versions}.
Each optimizer was given gradients that tell the ways of writing Adam apart;
[formulas.md](formulas.md) has the formulas.

- `beta1` and `beta2` are what is left of a moment in a step, `1 - beta1` and `1 - beta2` what
  enters it, `eps` what acts in a first step. They are measured to 1e-6 and not taken from the
  arguments; "-" where a moment cannot be read. "Not as given" names those that differ from the
  arguments by more.
- `beta^t` "drifts" where it is multiplied up in float32 from step to step.
- `moments` are those of float32 weights. In float16, squares of gradients below 2.4e-4 vanish.
- "Dropped": a row-sparse gradient is accepted without an error, and the parameter does not move.
"""
_PARTIAL = """\
The package as a whole does not import beside MindSpore 2.10. `pip install --no-deps` installed
it, and its optimizers were imported without the `__init__.py` of {} and {}.
"""


def page(found: Sequence[Identification]) -> str:
    """The page, of identifications in the order of `catalogue.ECOSYSTEM`."""
    installed = {name: version(name) for name in PACKAGES}
    versions = ", ".join(f"{name} {release}" for name, release in installed.items() if release)
    parts = [_HEAD.format(versions=versions)]
    for name in PACKAGES:
        ours = [one for one in found if one.target.split(".")[0] == name]
        runs = [one for one in ours if one.status != REFUSED]
        parts.append(f"## {name}\n")
        if not installed[name]:
            parts.append(f"Not installed: {', '.join(f'`{one.target}`' for one in ours)}.\n")
            continue
        if name in partial_import.LEFT_OUT:
            parts.append(_PARTIAL.format(*map("`{}`".format, partial_import.LEFT_OUT[name])))
        if runs:
            parts.append(markdown(CONFORMANCE, map(conformance_row, runs)) + "\n")
        others = [f"- `{title(one)}`: {one.formula}" for one in ours if one.status == REFUSED]
        if others:
            parts.append("\n".join(["Not measured here:\n", *others]) + "\n")
    return "\n".join(parts).rstrip()
