"""The update that an optimizer states: its formulas, what comes before them, and its arithmetic.

A recipe is plain data, so that a record holds it and no MindSpore is needed to judge by it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Optional, Union

import numpy as np

from ms_adam import reference
from ms_adam.lab.measure import UNIT, Arithmetic
from ms_adam.lab.targets import NumpyOptimizer, Optimizer, dtype_name, to_numpy

Method = Union[reference.Adam, reference.AdaMax]

# The formulas of MindSpore's own optimizers, as `ms-adam identify` finds them.
_OF_MINDSPORE = {
    "mindspore.nn.optim.adam.Adam": {"epsilon": "hat"},
    "mindspore.nn.optim.adam.AdamWeightDecay": {"bias_correction": False, "decoupled": True},
    "mindspore.experimental.optim.adamw.AdamW": {"decoupled": True},
}


class Recipe(NamedTuple):
    """An update, but for the learning rates, weight decays and loss scales of its steps.

    Attributes:
        methods: The formula of each parameter.
        max_grad_norm: The global norm to which unscaled gradients are clipped; None: no clipping.
        accumulate_steps: Number of calls whose mean gradient makes one update.
        skips: Whether a call with a gradient that is not finite changes nothing.
    """

    methods: list[Method]
    max_grad_norm: Optional[float] = None
    accumulate_steps: int = 1
    skips: bool = False

    def plain(self) -> dict[str, Any]:
        """The recipe as JSON."""
        methods = [[type(one).__name__, dataclasses.asdict(one)] for one in self.methods]
        return {**self._asdict(), "methods": methods}

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> Recipe:
        methods = [getattr(reference, name)(**numbers) for name, numbers in content["methods"]]
        return cls(**{**content, "methods": methods})


class Rounding(NamedTuple):
    """How an optimizer rounds, of which `arithmetic` makes bounds.

    Defaults are those of an unknown optimizer: float32, its rates and corrections too.

    Attributes:
        dtype: Of moments and arithmetic.
        float32_rates: Whether decay rates are rounded to float32.
        float32_scalars: As in `measure.Arithmetic`.
        norm_dtype: Of the norm of gradients, for clipping.
    """

    dtype: str = "float32"
    float32_rates: bool = True
    float32_scalars: bool = True
    norm_dtype: str = "float32"

    def arithmetic(self, method: Method, standard: Rounding) -> Arithmetic:
        """The arithmetic with which an optimizer may compute a method.

        Moments narrower than those of the standard are a difference, not roundings; float32 ones
        are never taken for narrow.
        """
        allowed = max(UNIT["float32"], UNIT[standard.dtype])
        dtype = self.dtype if UNIT[self.dtype] <= allowed else standard.dtype
        betas = method.beta1, method.beta2
        if self.float32_rates:
            betas = tuple(float(np.float32(beta)) for beta in betas)
        return Arithmetic(dtype, *betas, float32_scalars=self.float32_scalars)


def recipe_of(optimizer: Optimizer) -> Optional[Recipe]:
    """The recipe of an optimizer; None if its formula or its roundings are not known."""
    if rounding_of(optimizer) is None:
        return None
    if isinstance(optimizer, NumpyOptimizer):
        known = all(isinstance(m, (reference.Adam, reference.AdaMax)) for m in optimizer.methods)
        return Recipe(list(optimizer.methods), optimizer.max_grad_norm) if known else None
    core = _core(optimizer)
    if core is not None:
        execution, groups = core.execution, core.groups
        methods = [
            _method(groups.formulas[group], centralized)
            for group, centralized in zip(groups.index, groups.centralized)
        ]
        calls = execution.accumulate_steps
        return Recipe(methods, execution.max_grad_norm, calls, execution.skips)
    cell = optimizer.optimizer
    own = _OF_MINDSPORE.get(f"{type(cell).__module__}.{type(cell).__qualname__}")
    if own is None:
        return None
    groups = getattr(cell, "param_groups", None)
    if groups is not None:
        return Recipe([_of_group(group, own) for group in groups for _ in group["params"]])
    # nn.Adam keeps float32: the shortest decimal is what it was given.
    numbers = {name: float(str(np.float32(value))) for name, value in optimizer.numbers().items()}
    numbers = {name: numbers[name] for name in ("beta1", "beta2", "eps") if name in numbers}
    switches = {name: bool(getattr(cell, f"use_{name}", False)) for name in ("nesterov", "amsgrad")}
    return Recipe([reference.Adam(**numbers, **switches, **own)] * len(optimizer.parameters))


def rounding_of(optimizer: Optimizer) -> Optional[Rounding]:
    """How an optimizer rounds; None if that has no bound here, as of moments in blocks of bytes."""
    if isinstance(optimizer, NumpyOptimizer):
        return Rounding("float64", False, False, "float64")
    dtypes = [dtype_name(parameter) for parameter in optimizer.parameters]
    widest = "float64" if "float64" in dtypes else "float32"
    core = _core(optimizer)
    if core is not None:
        if any(getattr(core.execution, state, False) for state in ("narrow", "halves")):
            return None
        import mindspore as ms

        from ms_adam.scalars import scalar_dtype

        norm = str(scalar_dtype(ms.get_context("device_target"))).lower()
        return Rounding(widest, core.capabilities.float32_betas, False, norm)
    moments = optimizer.state_dtypes().get("moment2", [widest])
    return Rounding(max(moments, key=UNIT.__getitem__) if set(moments) <= set(UNIT) else widest)


def updates_of(optimizer: Optimizer) -> int:
    """The number of updates that an optimizer has made: it may go on from a checkpoint."""
    core = _core(optimizer)
    cell = optimizer.optimizer if core is None else core
    counters = (getattr(cell, name, None) for name in ("update_count", "state_step", "global_step"))
    counter = next((one for one in counters if one is not None), 0)  # a method of NumPy has none
    return int(to_numpy(counter).reshape(-1)[0])


def masters_of(optimizer: Optimizer) -> Optional[list]:
    """The weights that are updated in the place of the parameters; None if there are none."""
    core = _core(optimizer)
    if core is None or rounding_of(optimizer) is None or not core.execution.masters:
        return None
    if core.execution.sharded:
        return optimizer.buffers("master_weight")
    return list(core.master_weights)


def _core(optimizer):
    """The optimizer of ours that owns the state; None of another."""
    if isinstance(optimizer, NumpyOptimizer):
        return None
    from ms_adam.checkpoint import core_of

    core = core_of(optimizer.optimizer)
    return core if hasattr(core, "execution") else None


def _of_group(group, own):
    """The formula of a group of experimental.optim.AdamW."""
    beta1, beta2 = group["betas"]
    switches = {name: bool(group[name]) for name in ("amsgrad", "maximize")}
    return reference.Adam(beta1=beta1, beta2=beta2, eps=group["eps"], **switches, **own)


def _method(formula, centralized):
    numbers = {
        "beta1": formula.beta1,
        "beta2": formula.beta2,
        "eps": formula.eps,
        "maximize": formula.maximize,
        "centralize": bool(centralized),
    }
    if formula.infinity_norm:
        return reference.AdaMax(**numbers)
    return reference.Adam(
        epsilon="hat" if formula.epsilon_hat else "outside",
        bias_correction=formula.bias_correction,
        nesterov=formula.nesterov,
        amsgrad=formula.amsgrad,
        decoupled=formula.decoupled,
        **numbers,
    )
