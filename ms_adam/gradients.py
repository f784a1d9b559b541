"""Refuses gradients that do not fit their parameters, before any state is touched.

Shapes and dtypes are known when a step is compiled: the checks run then, once, and cost nothing
in a step. A gradient of shape (1,) would else be broadcast over its parameter without a word.
"""

import mindspore as ms
from mindspore.ops import PrimitiveWithInfer

from ms_adam.compat import FLOATS, NO_FLOAT


class CheckGradients(PrimitiveWithInfer):
    """Looks at the gradients of all parameters at once, while a step is compiled.

    One operator for all gradients, since one for each makes compilation half as long again.

    Args:
        names: the parameters' names.
        shapes: the parameters' shapes.

    Inputs:
        gradients: a tuple of tensors, and of pairs (indices, values) for rows of a table.

    Outputs:
        Constants of the graph: the dtype that all gradients have, or NO_FLOAT if they differ; and the
        places of the row-sparse ones, the last one first, or None if they can not be seen yet,
        since one is a RowTensor, of which nothing is known here.

    Raises:
        ValueError: If their count or a shape is another one.
        TypeError: If one is not a float tensor.
    """

    def __init__(self, names, shapes):
        super().__init__("CheckGradients")
        self.set_const_prim(True)
        self.add_prim_attr("constexpr_prim", True)
        self.add_prim_attr("forbid_reuse_result", True)  # another optimizer's answer is not ours
        self.names, self.shapes = tuple(names), tuple(tuple(shape) for shape in shapes)

    def __infer__(self, gradients):
        return {"dtype": None, "shape": None,
                "value": self.check(gradients["shape"], gradients["dtype"])}

    def check(self, shapes, dtypes):
        """The check itself, on what is known of the gradients."""
        if len(shapes) != len(self.names):
            raise ValueError(f"For 'Adam', there must be one gradient for each of the "
                             f"{len(self.names)} parameters, but got {len(shapes)}.")
        if any(shape is None or type(dtype).__name__ == "RowTensorType"
               for shape, dtype in zip(shapes, dtypes)):
            return NO_FLOAT, None
        elements, sparse = [], []
        for i, (name, expected) in enumerate(zip(self.names, self.shapes)):
            shape, dtype = shapes[i], dtypes[i]
            if isinstance(dtype, tuple):
                sparse.insert(0, i)
                dtype = self._check_pair(name, expected, shape, dtype)
            else:
                dtype = _element(dtype)
                self._check_shape(name, expected, tuple(shape))
            if dtype not in FLOATS:
                raise TypeError(f"For 'Adam', the gradient of '{name}' must be float16, bfloat16, "
                                f"float32 or float64, but got {dtype}.")
            elements.append(dtype)
        alike = all(dtype == elements[0] for dtype in elements)
        return elements[0] if alike else NO_FLOAT, tuple(sparse)

    @staticmethod
    def _check_shape(name, expected, shape):
        if shape == expected:
            return
        message = (f"For 'Adam', the gradient of '{name}' must have the parameter's shape "
                   f"{expected}, but got {shape}.")
        if len(expected) > 1 and len(shape) > 1 and shape[-1] == expected[-1]:
            message += (" If these are the values of a row-sparse gradient: in PyNative mode "
                        "MindSpore loses their row numbers. Use nn.Embedding in place of "
                        "nn.EmbeddingLookup(sparse=True), with use_lazy=True if rows without a "
                        "gradient are to stay; or hand over the pair (indices, values); or use "
                        "graph mode.")
        raise ValueError(message)

    @staticmethod
    def _check_pair(name, expected, shapes, dtypes):
        if len(dtypes) != 2:
            raise ValueError(f"For 'Adam', a row-sparse gradient must be a pair (indices, values), "
                             f"but that of '{name}' has {len(dtypes)} parts.")
        (indices, values), (index, value) = map(tuple, shapes), map(_element, dtypes)
        if index not in (ms.int32, ms.int64):
            raise TypeError(f"For 'Adam', the indices of the gradient of '{name}' must be int32 or "
                            f"int64, but got {index}.")
        if not expected or len(indices) != 1 or values != indices + expected[1:]:
            raise ValueError(f"For 'Adam', the gradient of '{name}' names rows of shape "
                             f"{expected[1:]} with indices of shape (n,) and values of shape "
                             f"(n, ...), but got {indices} and {values}.")
        return value


def _element(dtype):
    return getattr(dtype, "element_type", lambda: dtype)()
