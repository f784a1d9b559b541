"""Follows the optimizers of a script from within its process.

`Watch` wraps calls of optimizers, of compiled Cells and of functions under `ms.jit`, and now and
then looks at an optimizer before and after such a call. What the script computes is what it is
without: nothing is added to a graph, and no Parameter is written.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import linecache
import os
import sys
import time
import timeit
import weakref
from pathlib import Path
from typing import Any, Callable, Optional

from ms_adam.lab.studies.watch.schedule import Budget, Schedule


class Watch:
    """Follows all optimizers of this process.

    Args:
        settings: ``folder`` for the records; ``every`` and ``calls`` as in `Budget`; ``replace``,
            None or a formula, see `replacing`.
    """

    def __init__(self, settings: dict[str, Any]):
        self.folder, self.replace = Path(settings["folder"]), settings["replace"]
        self.budget = Budget(settings["every"], settings["calls"])
        self.depth = 0  # of wrapped calls within each other; the outermost is looked at
        self.followed: dict[int, Any] = {}  # by the identity of the optimizer
        self.graphs: dict[int, Any] = {}  # by the identity of the Cell
        self.functions: dict[Any, Schedule] = {}  # under ms.jit, by their code
        # When the latest gradients were there, in PyNative and as results of a graph.
        self.differentiated_at: Optional[float] = None
        self.graph_at: Optional[float] = None
        self.synchronised = 0.0  # seconds in which they were waited for
        self.wrapped: set[type] = set()
        self.made = 0
        self.begin_account: Optional[Callable] = None  # once the first optimizer is made
        self.passed, self.each = 0, 0.0  # see Budget.passing

    # --- wrapping ------------------------------------------------------------------------------

    def patch_base(self, base: type) -> None:
        """Follows all instances of a base class of optimizers."""
        create = base.__new__

        def __new__(cls, /, *arguments, **keywords):
            if self.begin_account is None:
                with self.budget.timed():
                    self.begin()
            if self.replace is not None:
                from ms_adam.lab.studies.watch.replacing import replacement

                other = replacement(cls, arguments, keywords, self.replace)
                if other is not None:
                    return other  # no instance of cls: Python does not call its __init__
            made = create(cls, *arguments, **keywords)
            with self.budget.timed():
                self.add(made, arguments, keywords)
            return made

        base.__new__ = __new__
        self.wrap_call(base)

    def begin(self) -> None:
        """Prepares for the first optimizer."""
        from ms_adam.lab.studies.watch import account, traces

        self.begin_account = account.Followed
        if self.budget.every != 0:
            self.patch_graphs()
        self.each = self.cost_of_passing()
        self.budget.passing.append(self)
        atexit.register(self.end)
        traces.hide()

    def cost_of_passing(self) -> float:
        """Seconds that a wrapper takes where clocks do not see it.

        The shortest of five batches with it and without it: other work makes some of them longer.
        """

        class Plain:
            def method(self, _):
                pass

        class Wrapped(Plain):
            pass

        self.wrap(Wrapped, "method", None)
        calls = [functools.partial(kind().method, None) for kind in (Plain, Wrapped)]
        timers = [timeit.Timer(call, timer=time.perf_counter) for call in calls]
        self.depth += 1
        batches = [[timer.timeit(100) for timer in timers] for _ in range(5)]
        self.depth, self.passed = self.depth - 1, 0
        plain, wrapped = map(min, zip(*batches))
        return max(0.0, wrapped - plain) / 100

    def wrap_call(self, kind: type) -> None:
        """Looks at calls of the optimizers of a class from Python."""
        self.wrapped.add(kind)
        self.wrap(kind, "__call__", self.call)

    def patch_graphs(self) -> None:
        """Looks at calls of compiled graphs, and notes when gradients or new data were there."""
        from mindspore import Parameter, nn

        api = sys.modules.get("mindspore.graph.api") or sys.modules["mindspore.common.api"]
        self.wrap(nn.Cell, "compile_and_run", self.graph_of_cell)
        self.wrap(api._JitExecutor, "__call__", self.graph_of_function)
        self.wrap(api._PyNativeExecutor, "grad", self.differentiation)
        self.wrap(Parameter, "set_data", self.new_data)

    def wrap(self, kind: type, name: str, around: Callable) -> None:
        """Passes calls of a method that are not within a wrapped call to `around`, and times it."""
        method, clock, budget = getattr(kind, name), time.perf_counter, self.budget

        @functools.wraps(method)
        def wrapped(owner, /, *arguments, **keywords):
            self.passed += 1
            if self.depth:
                return method(owner, *arguments, **keywords)
            theirs, entered = 0.0, clock()
            budget.entered = entered

            def run():
                nonlocal theirs
                left = clock()
                try:
                    return method(owner, *arguments, **keywords)
                finally:
                    theirs += clock() - left

            try:
                return around(owner, run, arguments, keywords)
            finally:
                budget.ours += clock() - entered - theirs

        setattr(kind, name, wrapped)

    # --- what is followed ----------------------------------------------------------------------

    def add(self, cell: Any, arguments: tuple, keywords: dict) -> None:
        """Begins to follow an optimizer, which is not initialised yet."""
        mint = sys.modules.get("ms_adam.mint")
        if mint is not None and isinstance(cell, mint._Core):
            return  # a part of the optimizer that the script made
        for kind in type(cell).__mro__:
            if kind in self.wrapped:
                break
            if "__call__" in vars(kind):
                self.wrap_call(kind)
        identity = id(cell)
        self.followed[identity] = self.begin_account(
            weakref.ref(cell, lambda _: self.forget(identity)),
            Schedule(self.budget),
            place(),
            (arguments, keywords),
            functools.partial(self.write, optimizer=self.made),
        )
        self.made += 1

    def forget(self, identity: int) -> None:
        """Ends the account of an optimizer that the script has let go."""
        if identity in self.followed and self.followed[identity].cell() is None:
            with self.budget.timed():
                self.followed.pop(identity).end()

    def end(self) -> None:
        """Writes what is known at the end only; what the script lets go of later is no news."""
        with self.budget.timed():
            while self.followed:
                self.followed.popitem()[1].end()
        self.write("end")

    def write(self, event: str, **content: Any) -> None:
        """Adds a line to the records of this process.

        That this fails, as where the script clears the folder, is no fault of the script.
        """
        line = {"event": event, **content, "run": self.budget.taken()}
        path = self.folder / f"{os.getpid()}.jsonl"
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    # --- calls ---------------------------------------------------------------------------------

    def call(self, cell: Any, run: Callable, arguments: tuple, keywords: dict) -> Any:
        """Calls an optimizer from Python."""
        followed = self.followed.get(id(cell))
        if followed is None:
            return run()
        began = time.perf_counter()
        if followed.begin():  # the clock of the wrapper sees it too
            self.budget.once += time.perf_counter() - began
        given = arguments[0] if arguments else keywords.get("gradients")
        try:
            return self.around(followed.schedule, run, [followed], given)
        finally:
            self.differentiated_at = self.graph_at = None

    def graph_of_cell(self, cell: Any, run: Callable, *_: Any) -> Any:
        """Runs a compiled Cell, which may be or hold optimizers."""
        if id(cell) in self.followed:  # a subclass without the wrapped __call__
            return run()
        schedule, within, known = self.graphs.get(id(cell), (None, [], lambda: None))
        if known() is not cell:  # a new one, perhaps at the place of one that is gone
            schedule = Schedule(self.budget)
            within = [id(one) for _, one in cell.cells_and_names() if id(one) in self.followed]
            self.graphs[id(cell)] = schedule, within, weakref.ref(cell)
        return self.graph(schedule, run, within)

    def graph_of_function(self, executor: Any, run: Callable, *_: Any) -> Any:
        """Runs a function under `ms.jit`, which may hold any optimizer."""
        code = getattr(executor.fn, "__code__", executor.fn)
        if code not in self.functions:
            self.functions[code] = Schedule(self.budget)
        return self.graph(self.functions[code], run, list(self.followed))

    def graph(self, schedule: Schedule, run: Callable, within: list[int]) -> Any:
        """Runs a compiled graph that may step some optimizers."""
        followed = list(filter(None, map(self.followed.get, within)))
        result = self.around(schedule, run, followed) if followed else run()
        self.graph_at = time.perf_counter()
        return result

    def differentiation(self, executor: Any, run: Callable, *_: Any) -> Any:
        """Computes gradients in PyNative; waits for them if the step that follows is looked at."""
        result = run()
        due = {one.stepped_by or one.schedule for one in list(self.followed.values())}
        due = [schedule for schedule in due if schedule.allowed()]
        if due:
            for schedule in due:
                schedule.decided = True
            began = time.perf_counter()
            executor.sync()  # for work that has to be done anyway
            waited = time.perf_counter() - began
            self.synchronised += waited
            self.budget.waiting += waited
        self.differentiated_at = time.perf_counter()
        return result

    def new_data(self, parameter: Any, run: Callable, *_: Any) -> Any:
        """Notes that a script gives other data to a Parameter that is being trained."""
        for followed in list(self.followed.values()):
            followed.new_data(parameter, place)
        return run()

    def around(self, schedule, run: Callable, all_followed: list, given: Any = None) -> Any:
        """Runs a call, and looks at optimizers before and after it if that is due."""
        due = schedule.due()
        schedule.begin()
        self.depth += 1
        try:
            if not due:
                schedule.waited(self.synchronised)
                return run()
            entered = time.perf_counter()
            # Graphs that follow in PyNative, such as amp.all_finite, are between.
            since = self.differentiated_at or self.graph_at
            looked = [one for one in all_followed if one.before(given)]
            started = time.perf_counter()
            result = run()
            ran = time.perf_counter()
            for one in looked:
                one.wait()
            ended = time.perf_counter()
            waited = ended - ran
            self.budget.waiting += waited
            seconds = {"call": ended - started, "tail": since and entered - since}
            found = [one.after(schedule, seconds) for one in looked]
            cost = time.perf_counter() - ended + started - entered
            schedule.looked(cost, any(found), waited + self.synchronised)
            return result
        finally:
            self.depth -= 1
            self.synchronised = 0.0


def place() -> list[str]:
    """Where the script is, ["file:line", the line]: the nearest frame outside MindSpore and us."""
    ours, mindspore = (os.path.dirname(f) for f in (__file__, sys.modules["mindspore"].__file__))
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith((ours, mindspore)):
        frame = frame.f_back
    file, line = frame.f_code.co_filename, frame.f_lineno
    source = linecache.getline(file, line).strip()
    near = os.path.relpath(file)
    return [f"{file if near.startswith(os.pardir) else near}:{line}", source]
