"""The old name of what `ms_adam.lab.targets` loads; goes when nothing imports it."""

from ms_adam.lab.targets import kind, load_callable, suggestion

__all__ = ["kind", "load_callable", "suggestion"]
