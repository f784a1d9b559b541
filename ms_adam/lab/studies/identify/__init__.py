"""Identifies the formula that an optimizer implements.

An optimizer is fed gradients made to tell the ways of writing Adam apart (`probes`), and the places
of its parameter are held to those of every hypothesis (`forms`, `relatives`) in float64. A
hypothesis within float32's rounding (`judge`) fits. If several fit, the answer is ambiguous; if
none does, it is no known formula.

    identify("mindspore.nn.Adam").formula        # 'epsilon-hat'
"""

from ms_adam.lab.studies.identify.findings import Finding, Identification
from ms_adam.lab.studies.identify.inquiry import identify, identify_target

__all__ = ["Finding", "Identification", "identify", "identify_target"]
