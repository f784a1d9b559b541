"""The interface of every method of this package."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Optional, Tuple

import numpy as np
from numpy.typing import ArrayLike

from ms_adam.reference.checks import Range, array, arrays, number


class Method:
    """An optimizer as two pure functions; a frozen dataclass of its numbers.

    A method defines `init` and `update`.

    Raises:
        ValueError: a number is out of its range, or a word is not one of those offered; the
            message has its name, its value, and the allowed values.
    """

    def __post_init__(self):
        for field in fields(self):
            value, allowed = getattr(self, field.name), field.metadata.get("allowed")
            if isinstance(allowed, Range):
                # A float32 scalar would turn every product with a Python number into float32.
                object.__setattr__(self, field.name, number(field.name, value, allowed))
            elif allowed is not None and value not in allowed:
                choices = ", ".join(map(repr, allowed))
                raise ValueError(f"'{field.name}' must be one of {choices}, but got {value!r}.")

    def init(self, parameter: ArrayLike) -> Any:
        """Returns the state before the first step, for a parameter of this shape.

        Args:
            parameter: array-like of any shape, 0-d and empty ones too. Its values do not count.

        Returns:
            The method's state: a named tuple of `step`, 0, and of float64 arrays.
        """
        raise NotImplementedError

    def update(self, w: np.ndarray, g: np.ndarray, state: Any) -> Tuple[Any, Any]:
        """Returns the parameter and the state after a step; all are in float64, of one shape."""
        raise NotImplementedError

    def step(
        self,
        parameter: ArrayLike,
        gradient: ArrayLike,
        state: Any,
        *,
        learning_rate: Optional[float] = None,
        weight_decay: Optional[float] = None,
    ) -> Tuple[np.ndarray, Any]:
        """Makes one step. Arguments are not changed.

        Args:
            parameter: array-like, taken as float64.
            gradient: array-like of the parameter's shape.
            state: the result of `init` or of the last step.
            learning_rate: for this step, in place of the method's own.
            weight_decay: likewise, for a method that has one.

        Returns:
            The new parameter, a float64 array of the same shape, and the new state.

        Raises:
            ValueError: the gradient or the state lacks the parameter's shape; the learning rate
                is not finite and at least 0.
        """
        numbers = {"learning_rate": learning_rate, "weight_decay": weight_decay}
        given = {name: value for name, value in numbers.items() if value is not None}
        method = replace(self, **given) if given else self  # type: ignore[type-var]
        fresh = self.init(parameter)._asdict()
        names = [name for name, value in fresh.items() if isinstance(value, np.ndarray)]
        w, g, *values = arrays(
            parameter, gradient=gradient, **{name: getattr(state, name) for name in names}
        )
        w, after = method.update(w, g, state._replace(**dict(zip(names, values))))
        # Of arrays of shape (), NumPy makes scalars.
        return array(w), after._make(array(x) if isinstance(x, np.float64) else x for x in after)
