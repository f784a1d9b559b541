"""Row-sparse gradients: some rows of a table, and their indices.

Such a gradient is a `RowTensor`, as `nn.EmbeddingLookup(sparse=True)` has it in a graph, or a pair
(indices, values):

    indices: int32 or int64 of shape (n,), a row named once or more often
    values: float, of shape (n, ...), the rest being the shape of the table's rows

A row that is named more than once has the sum of its values as gradient; they are summed before
anything is squared, in the order in which they stand.

In a graph with a row-sparse gradient, the kinds of all gradients are unknown until differentiation
is carried out, and a step is analysed before that. Results of primitives are unknown then too, and
Python's `if` must not depend on them. An overloaded function (`MultitypeFuncGraph`) is not entered
before the kinds are known, so all that depends on them is in such functions.
"""

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops import composite as C
from mindspore.ops import operations as P
from mindspore.ops.primitive import constexpr

from ms_adam.compat import SCATTERS_FLOAT64, bfloat16

_cast, _gather = P.Cast(), P.Gather()
_sum, _square = P.ReduceSum(), P.Square()
_unique, _segment_sum, _scatter = P.Unique(), P.UnsortedSegmentSum(), P.ScatterUpdate()
_scatter_into = P.TensorScatterUpdate()

# In the place of indices: the gradient is dense. (A tensor of no axes; indices have one.)
DENSE = Tensor(0, ms.int32)


def when_known(method, *kinds):
    """Returns a method that is not entered before the kinds of its arguments are known.

    Within it, a call that changes something must have a result, and this must be part of the
    method's own result: MindSpore 2.0.0 drops calls there whose result is not used.

    Args:
        method: of a Cell.
        kinds: of its arguments: "Tensor", "Tuple", "RowTensor".
    """
    overloaded = C.MultitypeFuncGraph(method.__name__)
    overloaded.register(*kinds)(method)
    return overloaded


class SplitRowSparse(nn.Cell):
    """Splits gradients of which at least one is row-sparse into values and indices.

    Inputs:
        weights: one for each gradient.
        gradients: a tuple of tensors and pairs; or, with RowTensors, of unknown kinds.
        sparse: the places of the pairs, the last one first; None if kinds are unknown.

    Outputs:
        Two tuples, as long as there are weights: values, the gradient itself if it is dense;
        indices, `DENSE` if it is.
    """

    def __init__(self, class_name):
        super().__init__(auto_prefix=False)
        self.map_ = ops.HyperMap()
        self.check_shape = _shape_check(class_name)
        self.values_of = when_known(self.values_of_dense, "Tensor", "Tensor")
        self.values_of.register("Tensor", "RowTensor")(_values_of_rows)

    def construct(self, weights, gradients, sparse):
        if sparse is None:
            return self.map_(self.values_of, weights, gradients), self.map_(_indices_of, gradients)
        indices = (DENSE,) * len(weights)
        for i in sparse:
            index, values = gradients[i]
            indices = indices[:i] + (index,) + indices[i + 1 :]
            gradients = gradients[:i] + (values,) + gradients[i + 1 :]
        return gradients, indices

    def values_of_dense(self, weight, gradient):
        self.check_shape(weight.shape, gradient.shape)
        return gradient


def _shape_check(class_name):
    @constexpr
    def check_shape(expected, shape):
        if expected != shape:
            raise ValueError(
                f"For '{class_name}', a gradient must have its parameter's shape {expected}, but "
                f"got {shape}."
            )

    return check_shape


def _values_of_rows(_, gradient):
    return gradient.values


_indices_of = C.MultitypeFuncGraph("indices_of")


@_indices_of.register("Tensor")
def _indices_of_dense(_):
    return DENSE


@_indices_of.register("RowTensor")
def _indices_of_rows(gradient):
    return gradient.indices


densify = C.MultitypeFuncGraph("densify")


@densify.register("Tensor", "Tensor", "Tensor")
def _densify(weight, values, indices):
    """Returns the dense gradient of a weight: float32, or float64 for float64."""
    if indices.ndim == 0:
        return values
    if weight.dtype == ms.float64:
        return _segment_sum(_cast(values, ms.float64), indices, weight.shape[0])
    return _segment_sum(_cast(values, ms.float32), indices, weight.shape[0])


def sum_duplicates(values, indices, dtype):
    """Sums the values of rows that are named more than once.

    Args:
        values: of shape (n, ...).
        dtype: in which to sum.

    Returns:
        totals, of shape (n, ...): the sum for each named row, then zeros; and the place in totals
        of the sum of each index.
    """
    _, place = _unique(indices)  # its other output has a shape that only the values tell
    return _segment_sum(_cast(values, dtype), place, indices.shape[0]), place


sum_of_squares = C.MultitypeFuncGraph("sum_of_squares")


@sum_of_squares.register("Tensor", "Tensor")
def _of_whole(zero, gradient):
    """Returns the sum of squares of a gradient, in the dtype of `zero`."""
    if gradient.size == 0:  # MindSpore's sum over nothing is whatever memory holds
        return zero
    return _sum(_square(_cast(gradient, zero.dtype)))


@sum_of_squares.register("Tensor", "Tensor", "Tensor")
def _of_rows(zero, values, indices):
    if values.size == 0:
        return zero
    if indices.ndim == 0:
        return _sum(_square(_cast(values, zero.dtype)))
    # summed as the update sums them
    totals, _ = sum_duplicates(
        values, indices, ms.float64 if values.dtype == ms.float64 else ms.float32
    )
    return _sum(_square(_cast(totals, zero.dtype)))


def rows_of(table, indices):
    """Returns the named rows of a table."""
    if table.dtype == bfloat16:  # exact there and back; the CPU gathers none
        return _cast(_gather(_cast(table, ms.float32), indices, 0), bfloat16)
    return _gather(table, indices, 0)


def store_rows(store, table, indices, values):
    """Sets the named rows of a Parameter; a row that is named twice has equal values.

    Args:
        store: the operator that sets a whole Parameter of this dtype.
        table, indices, values: as above.

    Returns:
        A result that the caller must use; see `when_known`.
    """
    if table.dtype == bfloat16:
        wide = _scatter_into(
            _cast(table, ms.float32), indices.reshape((-1, 1)), _cast(values, ms.float32)
        )
        return store(table, _cast(wide, bfloat16))
    if table.dtype == ms.float64 and not SCATTERS_FLOAT64:
        return store(table, _scatter_into(table, indices.reshape((-1, 1)), values))
    return _scatter(table, indices, values)


def touched(gradient):
    """Returns which rows of a dense gradient are not all zero: bool, of shape (rows, 1, ...)."""
    return ops.any(gradient != 0, axis=tuple(range(1, gradient.ndim)), keep_dims=True)
