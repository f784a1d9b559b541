"""Puts the built kernel into the wheel: ``MS_ADAM_PREBUILT=1 pip wheel .``

Such a wheel runs backend "fused" where no compiler is. It is one for this kind of machine, and for
every Python. Everything else about the package is in setup.cfg.
"""

import importlib.util
import os
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # before setuptools 70.1
    from wheel.bdist_wheel import bdist_wheel

BACKENDS = Path("ms_adam", "backends")


def toolchain():
    """Returns the module, without the package around it, which would import MindSpore."""
    spec = importlib.util.spec_from_file_location("toolchain", BACKENDS / "toolchain.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildKernel(build_py):
    def run(self):
        super().run()
        toolchain().prebuild(BACKENDS / "kernel", Path(self.build_lib, BACKENDS, "prebuilt"))


class OfThisMachine(Distribution):
    def has_ext_modules(self):
        return True


class ForEveryPython(bdist_wheel):
    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


if os.environ.get("MS_ADAM_PREBUILT") == "1":
    commands = {"build_py": BuildKernel, "bdist_wheel": ForEveryPython}
    setup(cmdclass=commands, distclass=OfThisMachine)
else:
    setup()
