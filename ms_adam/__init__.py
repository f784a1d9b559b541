"""ms_adam: the Adam optimizer that MindSpore users can trust.

>>> import ms_adam
>>> optimizer = ms_adam.Adam(network.trainable_params(), learning_rate=1e-3)  # doctest: +SKIP

The public names are loaded on first use: `ms_adam.reference`, which only needs NumPy, and
`ms-adam --help` do not wait for MindSpore.
"""

import importlib

__version__ = "0.1.0"
__all__ = [
    "AdaMax",
    "Adam",
    "AdamW",
    "averaged",
    "bitsandbytes_state",
    "convert_checkpoint",
    "gather_state",
    "load_state",
]

_ROOMS = {
    "AdaMax": "ms_adam.optimizer",
    "Adam": "ms_adam.optimizer",
    "AdamW": "ms_adam.optimizer",
    "averaged": "ms_adam.averages",
    "bitsandbytes_state": "ms_adam.checkpoint",
    "convert_checkpoint": "ms_adam.checkpoint",
    "gather_state": "ms_adam.checkpoint",
    "load_state": "ms_adam.checkpoint",
}


def __getattr__(name):
    if name == "mint":
        return importlib.import_module("ms_adam.mint")
    if name not in _ROOMS:
        raise AttributeError(f"module 'ms_adam' has no attribute {name!r}")
    value = getattr(importlib.import_module(_ROOMS[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *__all__])
