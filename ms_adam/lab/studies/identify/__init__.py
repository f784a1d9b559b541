"""Which formula does an optimizer implement?

An optimizer is fed gradients made to tell the ways of writing Adam apart (`probes`), and the places
to which it takes its parameter are held to those of every hypothesis (`forms`, `relatives`) in
float64. What is within float32's rounding (`judge`) fits. If several fit, the answer is ambiguous;
if none does, it is no known formula.

    identify("mindspore.nn.Adam").formula        # 'epsilon-hat'
"""

from ms_adam.lab.studies.identify.findings import Finding, Identification
from ms_adam.lab.studies.identify.inquiry import identify, identify_target
from ms_adam.lab.studies.identify.target import Target, describe, find

__all__ = ["Finding", "Identification", "Target", "describe", "find", "identify", "identify_target"]
