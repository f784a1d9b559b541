"""Refuses gradients that do not fit their parameters, before any state is touched.

In a compiled step, shapes and dtypes are known when it is compiled: the checks run then, once, and
cost nothing in a step. Called from Python, the optimizer runs them whenever shapes or dtypes differ
from those of the call before. A gradient of shape (1,) would otherwise be broadcast over its
parameter without a word.
"""

from typing import Any, List, Sequence, Tuple

import mindspore as ms
import numpy as np
from mindspore import RowTensor, Tensor
from mindspore.ops import PrimitiveWithInfer

from ms_adam.compat import FLOATS, NO_FLOAT, placed
from ms_adam.sparse import DENSE

_FORMS = "a tuple or list with one gradient for each parameter"


def normalize_gradients(class_name: str, names: Sequence[str], gradients: Any) -> tuple:
    """Returns gradients given from Python in the forms that a compiled step accepts.

    Args:
        gradients: a tuple or list of Tensors, RowTensors, pairs (indices, values) and what
            differentiation in graph mode returns for a row-sparse gradient: (indices, values,
            shape).

    Returns:
        A tuple of Tensors and pairs of Tensors.

    Raises:
        TypeError: If `gradients` is no tuple or list, or an element is none of these.
        ValueError: If there are none.
    """
    if not isinstance(gradients, (tuple, list)):
        raise TypeError(
            f"For '{class_name}', the gradients must be {_FORMS}, but got {_kind(gradients)}."
        )
    if not gradients:
        raise ValueError(
            f"For '{class_name}', there must be one gradient for each of the {len(names)} "
            "parameters, but got 0."
        )
    if set(map(type, gradients)) == {Tensor}:
        return tuple(gradients)
    taken = []
    for i, gradient in enumerate(gradients):
        if not isinstance(gradient, Tensor):
            gradient = _pair(gradient)
            if gradient is None or not all(isinstance(part, Tensor) for part in gradient):
                name = f"of '{names[i]}'" if i < len(names) else f"number {i}"
                raise TypeError(
                    f"For '{class_name}', the gradient {name} must be a Tensor, a RowTensor or a "
                    f"pair (indices, values) of Tensors, but got {_kind(gradients[i])}."
                )
            gradient = tuple(map(placed, gradient))
        taken.append(gradient)
    return tuple(taken)


def _pair(gradient):
    if isinstance(gradient, RowTensor):
        return gradient.indices, gradient.values
    if isinstance(gradient, (tuple, list)):
        return tuple(gradient[:2] if len(gradient) == 3 else gradient)
    return None


def _kind(value):
    if value is None:
        return "None (does the loss depend on this parameter?)"
    if isinstance(value, np.ndarray):
        return f"a NumPy array of shape {value.shape}; mindspore.Tensor(array) makes a Tensor of it"
    if isinstance(value, Tensor):
        return f"one Tensor of shape {value.shape}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {', '.join(type(part).__name__ for part in value)}"
    return f"{type(value).__name__}"


def split_pairs(gradients: tuple) -> Tuple[tuple, tuple]:
    """Returns values and indices of gradients from Python, as `SplitRowSparse` does in a graph."""
    if tuple not in set(map(type, gradients)):
        return gradients, ()
    return (
        tuple(gradient if isinstance(gradient, Tensor) else gradient[-1] for gradient in gradients),
        tuple(DENSE if isinstance(gradient, Tensor) else gradient[0] for gradient in gradients),
    )


class CheckGradients(PrimitiveWithInfer):
    """Checks the gradients of all parameters at once, while a step is compiled.

    One operator for all gradients, since one for each makes compilation 1.5 times as long.

    Inputs:
        gradients: a tuple of tensors, and of pairs (indices, values) for rows of a table.

    Outputs:
        Constants of the graph: the dtype of all gradients, or NO_FLOAT if they differ; and the
        places of the row-sparse ones, the last one first. None in place of the latter if a gradient
        is a RowTensor, of which nothing is known here.

    Raises:
        ValueError: If their count or a shape does not fit the parameters.
        TypeError: If one is not a float tensor.
    """

    def __init__(self, names: Sequence[str], shapes: Sequence[tuple], class_name: str):
        super().__init__("CheckGradients")
        self.set_const_prim(True)
        self.add_prim_attr("constexpr_prim", True)
        self.add_prim_attr("forbid_reuse_result", True)  # not the answer to another optimizer
        self.names, self.shapes = tuple(names), tuple(tuple(shape) for shape in shapes)
        self.class_name = class_name

    def __infer__(self, gradients):
        return {
            "dtype": None,
            "shape": None,
            "value": self.check(gradients["shape"], gradients["dtype"]),
        }

    def check(self, shapes: Any, dtypes: Any) -> tuple:
        """Checks the shapes and dtypes of the gradients."""
        if not isinstance(dtypes, (tuple, list)):
            raise TypeError(
                f"For '{self.class_name}', the gradients must be {_FORMS}, but got one "
                f"{_element(dtypes)} tensor of shape {shapes}."
            )
        if len(dtypes) != len(self.names):
            raise ValueError(
                f"For '{self.class_name}', there must be one gradient for each of the "
                f"{len(self.names)} parameters, but got {len(dtypes)}."
            )
        for name, dtype in zip(self.names, dtypes):
            if dtype is None or type(dtype).__name__ in ("TypeNone", "NoneType"):
                raise TypeError(
                    f"For '{self.class_name}', the gradient of '{name}' must be a "
                    f"tensor, but got None: does the loss depend on this parameter?"
                )
        if any(
            shape is None or type(dtype).__name__ == "RowTensorType"
            for shape, dtype in zip(shapes, dtypes)
        ):
            return NO_FLOAT, None
        elements: List[Any] = []
        sparse: List[int] = []
        for i, (name, expected) in enumerate(zip(self.names, self.shapes)):
            shape, dtype = shapes[i], dtypes[i]
            if isinstance(dtype, tuple):
                sparse.insert(0, i)
                dtype = self._check_pair(name, expected, shape, dtype)
            else:
                dtype = _element(dtype)
                self._check_shape(name, expected, tuple(shape))
            if dtype not in FLOATS:
                raise TypeError(
                    f"For '{self.class_name}', the gradient of '{name}' must be float16, "
                    f"bfloat16, float32 or float64, but got {dtype}."
                )
            elements.append(dtype)
        alike = all(dtype == elements[0] for dtype in elements)
        return elements[0] if alike else NO_FLOAT, tuple(sparse)

    def check_tensors(self, gradients: tuple) -> None:
        """Checks gradients given from Python."""

        def of(gradient, name):
            if isinstance(gradient, tuple):
                return tuple(getattr(part, name) for part in gradient)
            return getattr(gradient, name)

        self.check(*([of(gradient, name) for gradient in gradients] for name in ("shape", "dtype")))

    def _check_shape(self, name, expected, shape):
        if shape == expected:
            return
        message = (
            f"For '{self.class_name}', the gradient of '{name}' must have the parameter's "
            f"shape {expected}, but got {shape}."
        )
        if len(expected) > 1 and len(shape) > 1 and shape[-1] == expected[-1]:
            message += (
                " If these are the values of a row-sparse gradient: in PyNative mode "
                "MindSpore loses their row numbers. Use nn.Embedding in place of "
                "nn.EmbeddingLookup(sparse=True), with use_lazy=True if rows without a "
                "gradient are to stay; or hand over the pair (indices, values); or use "
                "graph mode."
            )
        raise ValueError(message)

    def _check_pair(self, name, expected, shapes, dtypes):
        if len(dtypes) != 2:
            raise ValueError(
                f"For '{self.class_name}', a row-sparse gradient must be a pair "
                f"(indices, values), but that of '{name}' has {len(dtypes)} parts."
            )
        (indices, values), (index, value) = map(tuple, shapes), map(_element, dtypes)
        if index not in (ms.int32, ms.int64):
            raise TypeError(
                f"For '{self.class_name}', the indices of the gradient of '{name}' must "
                f"be int32 or int64, but got {index}."
            )
        if not expected or len(indices) != 1 or values != indices + expected[1:]:
            raise ValueError(
                f"For '{self.class_name}', the gradient of '{name}' names rows of shape "
                f"{expected[1:]} with indices of shape (n,) and values of shape "
                f"(n, ...), but got {indices} and {values}."
            )
        return value


def _element(dtype):
    return getattr(dtype, "element_type", lambda: dtype)()
