"""Optimizers of packages that do not import beside MindSpore 2.10, without the rest of them.

A package whose __init__.py imports what this MindSpore no longer has, or what is not installed, may
still have optimizers that run. They are imported with the __init__.py of some packages left out.
"""

import importlib.util
import sys

LEFT_OUT = {"mindnlp": ("mindnlp", "mindnlp.core"), "mindocr": ("mindocr", "mindocr.utils")}


def prepare(path: str) -> None:
    """Makes an optimizer importable, given the name that it is asked for by.

    Puts empty packages in the place of those of `LEFT_OUT`, with their modules, unless the whole
    package is imported already or not installed.
    """
    names = LEFT_OUT.get(path.replace(":", ".").split(".")[0], ())
    if not names or names[0] in sys.modules:
        return
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None:
            return
        sys.modules[name] = importlib.util.module_from_spec(spec)  # its __init__.py is not run
