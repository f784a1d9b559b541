"""The operators of a step, and the platforms that MindSpore documents for them."""

import ast
import inspect
import re
from collections import Counter
from typing import NamedTuple

EVERYWHERE = ("Ascend", "GPU", "CPU")


class Operator(NamedTuple):
    """What MindSpore says of an operator.

    Attributes:
        page: of the API reference, where its platforms stand; the installed docstring is that page.
        platforms: as the page has them.
    """

    page: str
    platforms: tuple[str, ...] = EVERYWHERE


# Of MindSpore 2.10.0, by the name under `mindspore.ops`: classes are what a compiled graph holds,
# functions are what our code calls besides. Most stand on a page of their own name, or on that of
# their function: `AssignAdd` on `assign_add`.
# fmt: off
_ON_THEIR_OWN_PAGE = [
    "Adam", "AddN", "ApplyAdamWithAmsgradV2", "Cast", "Custom", "Div", "RealDiv", "ReduceAny",
    "ReduceMean", "ReduceSum", "ScatterUpdate", "Slice", "Sub", "TensorScatterUpdate", "Unique",
    "addn", "any", "assign", "cast", "depend", "isfinite", "logical_and", "select", "sqrt",
    "stack", "tanh", "where",
]
_ON_THE_PAGE_OF_THEIR_FUNCTION = [
    "Abs", "Add", "Assign", "AssignAdd", "BitwiseAnd", "BitwiseXor", "BroadcastTo", "Equal",
    "FloorDiv", "FloorMod", "Gather", "Greater", "GreaterEqual", "Lerp", "Less", "LogicalAnd",
    "Maximum", "Mul", "Neg", "NotEqual", "OnesLike", "Reshape", "Select", "Sqrt", "Square", "Stack",
    "Tanh", "UnsortedSegmentSum", "Unstack", "ZerosLike",
]
# fmt: on
OPERATORS = {
    **{name: Operator(f"mindspore.ops.{name}") for name in _ON_THEIR_OWN_PAGE},
    **{
        name: Operator("mindspore.ops." + re.sub(r"\B(?=[A-Z])", "_", name).lower())
        for name in _ON_THE_PAGE_OF_THEIR_FUNCTION
    },
    "AllGather": Operator("mindspore.ops.AllGather", ("Ascend", "GPU")),
    "Broadcast": Operator("mindspore.ops.Broadcast", ("Ascend", "GPU")),
    "Concat": Operator("mindspore.ops.cat"),
    "IsFinite": Operator("mindspore.ops.isfinite"),
    "ReduceAll": Operator("mindspore.ops.all"),
    # The operator has no page of its own; that of the method which calls it names Ascend, and says
    # in its text that it copies from CPU to CPU where shapes and dtypes are equal, as ours are.
    "InplaceCopy": Operator("mindspore.Tensor.copy_", ("Ascend",)),
}

# Chosen by device target: Custom, which launches our kernels for the CPU, and what stores bfloat16.
ON_THE_CPU_ALONE = ("Custom", "InplaceCopy")

# Of shard_state alone. The messages are not documented for the CPU; the tests of sharding run them.
EXCHANGE = ("AllGather", "Broadcast", "BroadcastTo")

# Build graphs, and are gone when one is compiled: nothing of them runs on a device.
# fmt: off
BUILDERS = (
    "HyperMap", "Map", "MultitypeFuncGraph", "Primitive", "PrimitiveWithInfer", "constexpr",
    "partial",
)
# fmt: on

# What holds a compiled graph together. TensorMove is MindSpore's own: a copy of what is read before
# it is overwritten, on any device and with any optimizer.
STRUCTURE = ("Depend", "Load", "MakeTuple", "Return", "TensorMove", "TupleGetItem", "UpdateState")

_MODULES = (
    "mindspore.ops.operations.",
    "mindspore.ops.composite.",
    "mindspore.ops.primitive.",
    "mindspore.ops.auto_generate.",
    "mindspore.ops.function.",
    "mindspore.ops.functional.",
    "mindspore.ops.",
)


def named_in(source):
    """The operators that a module's source names, by their names under `mindspore.ops`.

    Args:
        source: Python code.

    Returns:
        A set of names. One that is not to be had from `mindspore.ops` keeps its path.
    """
    tree = ast.parse(source)
    paths = {}  # what a name of the module stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                paths[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                paths[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    found = set()
    inner = set()  # parts of a longer path
    for node in ast.walk(tree):  # the whole of a path comes before its parts
        if isinstance(node, (ast.Attribute, ast.Name)) and id(node) not in inner:
            inner.update(id(part) for part in ast.walk(node))
            path = _path(node, paths)
            if path.startswith(("mindspore.ops.", "mindspore.mint.")):
                found.add(_short(path))
        elif isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            found.add(f"{node.module}.*")
    return found


def _path(node, paths):
    """`P.Add` as "mindspore.ops.operations.Add"; "" for what begins with something else."""
    if isinstance(node, ast.Name):
        return paths.get(node.id, "")
    if isinstance(node, ast.Attribute):
        start = _path(node.value, paths)
        return f"{start}.{node.attr}" if start else ""
    return ""


def _short(path):
    for module in _MODULES:
        if path.startswith(module):
            return path[len(module) :].split(".")[0]
    return path


GRAPHS = "*_validate_*.ir"  # the last form of a graph that is the same on all devices


def saving_graphs(folder):
    """Environment variables with which MindSpore writes the GRAPHS that it compiles to a folder."""
    return {
        "MS_DEV_SAVE_GRAPHS": "1",
        "MS_DEV_SAVE_GRAPHS_PATH": str(folder),
        "MS_DEV_DUMP_IR_PASSES": "validate",  # all others take as long as compiling
    }


def launched_in(graph):
    """The operators of a compiled graph.

    Args:
        graph: the text that MindSpore writes of it.

    Returns:
        {operator: how many of them}.
    """
    line = r"^ +%\w+(?:\([^)]*\))? = (?:PrimFunc_)?(\w+)\("
    return Counter(name for name in re.findall(line, graph, re.MULTILINE) if name not in STRUCTURE)


def refusals(names):
    """Why operators must not be used; [] if all may.

    Args:
        names: of operators, as `named_in` and `launched_in` have them.
    """
    reasons = []
    for name in sorted(set(names) - set(BUILDERS)):
        if name not in OPERATORS:
            reasons.append(
                f"{name} is not in the table of tests/documented_operators.py: "
                f"add its page and platforms, if Ascend and GPU are among them"
            )
        elif not {"Ascend", "GPU"} <= set(OPERATORS[name].platforms) and (
            name not in ON_THE_CPU_ALONE
        ):
            reasons.append(
                f"{name} is documented for {', '.join(OPERATORS[name].platforms)} alone "
                f"({OPERATORS[name].page})"
            )
    return reasons


def documented_platforms(page):
    """What the docstring of the installed MindSpore says for a page of its API reference.

    Raises:
        LookupError: If there is no such thing, or it says nothing of platforms.
    """
    import mindspore

    thing = mindspore
    for part in page.split(".")[1:]:
        thing = getattr(thing, part, None)
    text = (inspect.getdoc(thing) if thing is not None else None) or ""
    line = re.search(r"^Supported Platforms:\s*\n\s*(``.*)", text, re.MULTILINE)
    if line is None:
        raise LookupError(f"{page}: its docstring names no platforms")
    return tuple(re.findall(r"``(\w+)``", line.group(1)))
