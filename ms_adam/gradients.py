"""Refuses gradients that do not fit their parameters, before any state is touched.

Shapes and dtypes are known when a step is compiled: the checks run then, once, and cost nothing
in a step. A gradient of shape (1,) would else be broadcast over its parameter without a word.
"""

import mindspore as ms
from mindspore.ops import PrimitiveWithInfer

FLOATS = (ms.float16, ms.bfloat16, ms.float32, ms.float64)


class CheckGradients(PrimitiveWithInfer):
    """Looks at the gradients of all parameters at once, while a step is compiled.

    One operator for all gradients, since one for each makes compilation half as long again.

    Args:
        names: the parameters' names.
        shapes: the parameters' shapes.

    Inputs:
        gradients: a tuple of tensors.

    Outputs:
        The dtype that all gradients have, or None if they differ; a constant of the graph.

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
        elements = [getattr(dtype, "element_type", lambda: dtype)() for dtype in dtypes]
        for name, expected, shape, dtype in zip(self.names, self.shapes, shapes, elements):
            if tuple(shape) != expected:
                raise ValueError(f"For 'Adam', the gradient of '{name}' must have the parameter's "
                                 f"shape {expected}, but got {tuple(shape)}.")
            if dtype not in FLOATS:
                raise TypeError(f"For 'Adam', the gradient of '{name}' must be float16, bfloat16, "
                                f"float32 or float64, but got {dtype}.")
        return elements[0] if all(dtype == elements[0] for dtype in elements) else None
