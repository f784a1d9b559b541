"""The interface of every method of this package."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import numpy as np
from numpy.typing import ArrayLike


class Method:
    """An optimizer as two pure functions; a frozen dataclass of its numbers.

    Raises:
        ValueError: a number is out of its range, or a word is not one of those offered; the
            message has its name, its value, and the allowed values.
    """

    def init(self, parameter: ArrayLike) -> Any:
        """Returns the state before the first step, for a parameter of this shape.

        Args:
            parameter: array-like of any shape, 0-d and empty ones too. Its values do not count.

        Returns:
            The method's state: a named tuple of `step`, 0, and of float64 arrays.
        """
        raise NotImplementedError

    def step(
        self,
        parameter: ArrayLike,
        gradient: ArrayLike,
        state: Any,
        *,
        learning_rate: Optional[float] = None,
    ) -> Tuple[np.ndarray, Any]:
        """Makes one step. Arguments are not changed.

        Args:
            parameter: array-like, taken as float64.
            gradient: array-like of the parameter's shape.
            state: the result of `init` or of the last step.
            learning_rate: for this step, in place of the method's own.

        Returns:
            The new parameter, a float64 array of the same shape, and the new state.

        Raises:
            ValueError: the gradient or the state lacks the parameter's shape; the learning rate
                is not finite and at least 0.
        """
        raise NotImplementedError
