"""Starts `follow` in the process of a watched script.

`study` copies this file into a folder of its own as ``sitecustomize.py``, which Python imports when
it starts. It is alone there: everything else is imported when the script imports MindSpore.
"""

# ruff: noqa: E402
import time

BEGAN = time.perf_counter()  # the imports that follow are for watching

import importlib._bootstrap
import importlib.util
import json
import os
import sys
from importlib.machinery import PathFinder

VARIABLE = "MS_ADAM_WATCH"
BASES = ("mindspore.nn.optim.optimizer", "mindspore.experimental.optim.optimizer")


class Finder:
    """Finds the modules of `BASES` as Python does, and has them patched once they are loaded."""

    def __init__(self, settings):
        self.settings, self.watch = settings, None
        self.started = 0.0  # seconds
        self.passed, self.each = 0, 0.0  # imports of other modules, and the seconds that one takes

    def find_spec(self, name, path=None, target=None):
        """Called by Python for each import."""
        if name not in BASES:
            self.passed += 1
            return None
        finders = (it for it in sys.meta_path if it is not self and hasattr(it, "find_spec"))
        spec = next(filter(None, (it.find_spec(name, path, target) for it in finders)), None)
        if spec is not None:
            load = spec.loader.exec_module

            def exec_module(module):
                load(module)
                entered = time.perf_counter()
                self.patch(module)
                self.watch.budget.happened(time.perf_counter() - entered)

            spec.loader.exec_module = exec_module
        return spec

    def patch(self, module):
        """Has a base class of optimizers followed."""
        if self.watch is None:
            if importlib.util.find_spec("ms_adam") is None:
                sys.path.append(self.settings["root"])
            from ms_adam.lab.studies.watch.follow import Watch

            self.watch = Watch(self.settings)
            self.measure()
            budget = self.watch.budget
            budget.started = BEGAN
            budget.happened(self.started)
            budget.passing.append(self)
        self.watch.patch_base(module.Optimizer)

    def measure(self):
        """Times what Python does to be told that a module is none of ours."""
        passed, entered = self.passed, time.perf_counter()
        for _ in range(200):
            with importlib._bootstrap._ImportLockContext():
                self.find_spec("")
        self.passed, self.each = passed, (time.perf_counter() - entered) / 200


def start():
    """Follows the optimizers of this process, then imports the sitecustomize that this one hides.

    The folder leaves sys.path, but not PYTHONPATH: processes of the script are followed, too.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != here]
    finder = Finder(json.loads(os.environ[VARIABLE]))
    sys.meta_path.insert(0, finder)
    finder.started = time.perf_counter() - BEGAN
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None:  # Python ignores this error
        raise ModuleNotFoundError("No module named 'sitecustomize'", name="sitecustomize")
    module = sys.modules["sitecustomize"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "sitecustomize":
    start()
