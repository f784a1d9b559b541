"""The launch by address: right while MindSpore still computes, and for every kind of tensor."""

import threading

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer
from running import (
    ALL_BACKENDS,
    CompiledStep,
    adam,
    run,
    snapshot,
    step_of,
    to_numpy,
    unchanged,
    whole_state,
)

import ms_adam
from ms_adam.backends import launch

pytestmark = pytest.mark.skipif(
    not launch.AVAILABLE,
    reason="MindSpore 2.0.0 tells no addresses; test_optimizer and test_trainers run it compiled",
)

SHAPES = ((), (1,), (7,), (3, 5), (2, 3, 2, 2), (0, 4))


def random_tensors(seed, shapes=SHAPES, dtype="float32"):
    rng = np.random.default_rng(seed)
    return tuple(Tensor(rng.standard_normal(shape), getattr(ms, dtype)) for shape in shapes)


def assert_same(one, other):
    np.testing.assert_equal(whole_state(one), whole_state(other))


class Pair:
    """An optimizer that Python calls, and the same as part of a graph."""

    def __init__(self, shapes=SHAPES, launch="by address", **options):
        self.called, self.compiled = (adam(shapes, **options) for _ in range(2))
        self.step = CompiledStep(self.compiled)
        assert self.called.launch == launch

    def __call__(self, gradients):
        self.called(gradients)
        self.step(gradients)

    def assert_same(self):
        assert_same(self.called, self.compiled)


def counter(value, dtype="int32"):
    """What takes the place of global_step."""
    tensor = Tensor(value, getattr(ms, dtype))
    return Parameter(tensor, name="global_step", requires_grad=False)


# --- which way runs ------------------------------------------------------------------------------


def test_a_subclass_with_its_own_construct_is_compiled(mode):
    class Halved(ms_adam.Adam):
        @ms.jit
        def construct(self, gradients):
            return super().construct(gradients[:1] + (gradients[1] * 0.0,))

    optimizer = adam([(3,), (3,)], optimizer=Halved)
    assert optimizer.launch == "compiled"
    before = snapshot(optimizer).weights
    run(optimizer, 1)
    after = snapshot(optimizer).weights
    assert not np.array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])


def test_a_hook_is_called():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    optimizer = adam([(3,)])
    called = []
    handle = optimizer.register_forward_pre_hook(lambda cell, inputs: called.append(len(inputs)))
    assert optimizer.launch == "compiled"
    run(optimizer, 1)
    assert called
    handle.remove()
    assert optimizer.launch == "by address"


# --- order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [True, False])
def test_no_gradient_is_read_early_and_no_weight_late(asynchronous):
    """Chains before and after each of 200 calls; every value is a small whole number.

    With beta1 = beta2 = 0, eps = 1 and no bias correction, the step of a gradient g >= 0 is
    g / (g + 1): with g = 1 exactly 0.5. A gradient that is read before its chain is done is not 1,
    and the weight that is read after step t is -t / 2 exactly. (A launch at once, at addresses that
    were known before, fails in 198 of 200 steps.)
    """
    ms.set_context(mode=ms.PYNATIVE_MODE, pynative_synchronize=not asynchronous)
    size = 64
    weight = Parameter(Tensor(np.zeros((size, size)), ms.float32), name="w")
    optimizer = ms_adam.Adam([weight], 1.0, beta1=0.0, beta2=0.0, eps=1.0, bias_correction=False)
    assert optimizer.launch == "by address"
    identity, ones = Tensor(np.eye(size), ms.float32), Tensor(np.ones((size, size)), ms.float32)
    reads = []
    try:
        for step in range(200):
            gradient = ones * 3.0
            for _ in range(step % 7):
                gradient = ops.matmul(gradient, identity)
            gradient = gradient - 2.0
            queued = ops.matmul(weight, identity)  # reads the weight before the step
            done = optimizer((gradient,))
            later = ops.matmul(weight, identity)  # and after it
            reads.append((queued, later))
            del gradient  # its memory is free for the next one
            assert done
        for step, (queued, later) in enumerate(reads):
            np.testing.assert_array_equal(queued.asnumpy(), -step / 2)
            np.testing.assert_array_equal(later.asnumpy(), -(step + 1) / 2)
        np.testing.assert_array_equal(to_numpy(weight), -100.0)
    finally:
        ms.set_context(pynative_synchronize=False)


class Line(nn.Cell):
    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor(np.zeros(1000), ms.float32), name="weight")

    def construct(self, x):
        return ops.reduce_sum(self.weight * x)


def test_graphs_before_and_after_see_the_weight(mode):
    """value_and_grad of a network, compiled in graph mode: the loss of step t is -t / 2 * 1000."""
    network = Line()
    optimizer = ms_adam.Adam(
        network.trainable_params(), 1.0, beta1=0.0, beta2=0.0, eps=1.0, bias_correction=False
    )
    gradient = ms.value_and_grad(network, None, network.trainable_params())
    x = Tensor(np.ones(1000), ms.float32)
    for step in range(200):
        loss, gradients = gradient(x)
        optimizer(gradients)
        assert float(loss) == -500.0 * step


def test_an_error_under_way_is_raised_before_anything_changes():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    optimizer = adam([(3,)])
    table = Tensor(np.ones((2, 3)), ms.float32)
    with unchanged(optimizer), pytest.raises(RuntimeError):
        optimizer((ops.Gather()(table, Tensor(5, ms.int32), 0) * 1.0,))
    run(optimizer, 1)
    assert optimizer.global_step.asnumpy() == 1


# --- kinds of tensors ----------------------------------------------------------------------------


def test_views_are_read_as_what_they_show(mode):
    shapes = [(4, 3), (2, 3), (3, 2), (3, 4), (5,)]
    x = Tensor(np.arange(12.0).reshape(3, 4) - 5, ms.float32)
    views = (
        x.transpose(1, 0),
        x[1:, :3],
        x[:, 1:3],
        ops.broadcast_to(x[1:2], (3, 4)),
        Tensor(np.arange(10.0), ms.float32)[::2],
    )
    both = Pair(shapes)
    for _ in range(2):
        both.called(views)
        both.step(tuple(Tensor(np.array(view.asnumpy())) for view in views))
    both.assert_same()


def test_memory_shared_with_numpy(mode):
    array = np.ones(5, np.float32)
    both = Pair([(5,)])
    shared = Tensor.from_numpy(array)
    for factor in (1.0, -3.0):
        array[:] = factor
        both.called((shared,))
        both.step((Tensor(np.full(5, factor), ms.float32),))
    both.assert_same()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_gradients_of_another_dtype_from_one_call_to_the_next(dtype, mode):
    both = Pair()
    for name in ("float32", dtype, "float32"):
        both(random_tensors(1, dtype=name))
    both.assert_same()


def test_memory_that_moves_within_a_tensor(mode):
    """A tensor's storage (`untyped_storage`) goes on telling the address from before."""
    moved, same = (adam([(4, 3)]) for _ in range(2))
    weight, new = moved.parameters[0], same.parameters[0]
    for i in range(3):
        for optimizer in (moved, same):
            run(optimizer, 1, seed=i)
        assert_same(moved, same)
        if i == 0:
            weight.set_dtype(ms.float16)
            weight.set_dtype(ms.float32)
            new.set_data(Tensor(to_numpy(new).astype(np.float16), ms.float32))
        elif hasattr(weight, "set_"):
            weight.set_(Tensor(np.full((4, 3), 0.25), ms.float32))
            new.set_data(Tensor(np.full((4, 3), 0.25), ms.float32))


@pytest.mark.parametrize("replace", ["set_data", "load_param_into_net", "assign", "copy_"])
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_replaced_data_is_what_goes_on(replace, backend, mode):
    """Weights, moments and a fixed learning rate; the same with all of them in one graph.

    nn.Adam loses its steps at a `set_data` between them.
    """
    both = Pair([(4, 3), (5,)], "by address" if backend == "fused" else "compiled", backend=backend)
    called, compiled = both.called, both.compiled
    new = {
        parameter.name: Parameter(Tensor(np.full(parameter.shape, 0.25), ms.float32))
        for parameter in (*called.parameters, *called.moment1)
    }
    new["learning_rate"] = Parameter(Tensor(0.5, ms.float32))
    for i in range(4):
        both(random_tensors(i, [(4, 3), (5,)]))
        if i != 1:
            continue
        if replace == "load_param_into_net":
            ms.load_param_into_net(called, new)
        for optimizer, way in ((called, replace), (compiled, "assign")):
            for parameter in optimizer.get_parameters():
                if parameter.name not in new or way == "load_param_into_net":
                    continue
                if way == "assign":
                    ops.assign(parameter, new[parameter.name])
                else:
                    getattr(parameter, way)(new[parameter.name])
    both.assert_same()


def test_data_of_another_shape_are_refused(mode):
    """`set_data` takes them. The kernel would write the moments of 10,000 elements into 10."""
    optimizer = adam([(100, 100)])
    run(optimizer, 1)
    for parameter in (optimizer.moment2[0], optimizer.parameters[0]):
        before = to_numpy(parameter).copy()
        parameter.set_data(Tensor(np.zeros(10), ms.float32))
        with pytest.raises(RuntimeError, match="the kernel refuses the tensors of the step"):
            optimizer(random_tensors(0, [(100, 100)]))
        parameter.set_data(Tensor(before, ms.float32))
        run(optimizer, 1)
    assert optimizer.global_step.asnumpy() == 3


def test_parameters_that_are_loaded_after_the_optimizer_was_made(mode):
    """`no_init_parameters` leaves them without data until then, and what is cloned from them."""
    from mindspore.nn.utils import no_init_parameters  # not in 2.0.0

    both = Pair([(4, 3)])
    with no_init_parameters():
        late = Parameter(initializer("zeros", (4, 3), ms.float32), name="layer0.weight")
    start, both.called = both.called.parameters[0], ms_adam.Adam([late])
    late.set_data(Tensor(to_numpy(start), ms.float32))
    for i in range(3):
        both(random_tensors(i, [(4, 3)]))
    both.assert_same()


def test_a_parameter_that_is_a_view(mode):
    parameter = Parameter(Tensor(np.zeros((4, 3)), ms.float32), name="w")
    optimizer = ms_adam.Adam([parameter], 0.1)
    x = Tensor(np.arange(12.0).reshape(3, 4), ms.float32)
    parameter.set_data(x.transpose(1, 0))
    signs = np.where(np.arange(12).reshape(4, 3) % 5 < 2, 1.0, -1.0)
    optimizer((Tensor(signs, ms.float32),))
    # Steps of the learning rate, to two roundings of weights up to 11.
    np.testing.assert_allclose(
        parameter.asnumpy(), np.arange(12.0).reshape(3, 4).T - 0.1 * signs, atol=2 * 2.0**-20
    )
    np.testing.assert_array_equal(x.asnumpy(), np.arange(12.0).reshape(3, 4))


@pytest.mark.parametrize(
    "dtype, shape",
    [("int32", (1,)), ("int64", (1,)), ("float32", (1,)), ("float64", ()), ("int32", ())],
)
@pytest.mark.parametrize("backend", ["fused", "primitive", "composite"])
@pytest.mark.parametrize("compiled", [False, True])
def test_global_step_of_another_dtype(backend, dtype, shape, compiled, mode):
    """tinyms puts a float counter there: its bits are not to be read as an integer."""
    rates = [1e-3, 3e-3]
    optimizer = adam([(3,)], rates, backend=backend)
    optimizer.global_step = counter(np.zeros(shape), dtype)
    before = to_numpy(optimizer.parameters[0])
    step = step_of(optimizer, compiled)
    for _ in range(2):
        step((Tensor(np.ones(3), ms.float32),))
    # Equal gradients make steps of the learning rates, to a few roundings of weights up to 1.
    np.testing.assert_allclose(before - to_numpy(optimizer.parameters[0]), 4e-3, atol=3e-7)
    assert optimizer.global_step.asnumpy() == 2
    again = adam([(3,)], rates, backend=backend)
    again.global_step = optimizer.global_step.clone(init="zeros")
    ms_adam.load_state(again, ms_adam.gather_state(optimizer))
    assert again.global_step.asnumpy() == 2 and again.global_step.shape == shape


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_a_global_step_that_takes_the_place_of_another_is_counted(backend, mode):
    optimizer = adam([(3,)], [1.0, 1.0, 0.5], backend=backend)
    run(optimizer, 1)
    optimizer.global_step = counter([2])
    before = to_numpy(optimizer.parameters[0])
    run(optimizer, 1)
    # Equal gradients make steps of the learning rate.
    apart = np.abs(to_numpy(optimizer.parameters[0]) - before)
    np.testing.assert_allclose(apart, 0.5, rtol=1e-5)
    assert optimizer.global_step.asnumpy() == 3


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_a_global_step_that_cannot_count_is_refused(backend, mode):
    """In float16, 2,048 is followed by itself."""
    optimizer = adam([(3,)], backend=backend)
    optimizer.global_step = counter([0], "float16")
    with pytest.raises(TypeError, match="'global_step' must be one number.*Float16"):
        run(optimizer, 1)


def test_ctrl_c_leaves_the_counts_of_a_step_together(monkeypatch):
    """Python raises a KeyboardInterrupt as soon as the kernel has returned."""
    optimizer = adam([(3,)])
    launcher = type(optimizer.update.launcher)
    launched = launcher.__call__

    def interrupted(self, *arguments):
        launched(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(launcher, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(optimizer, 1)
    assert int(optimizer.update_count) == int(optimizer.global_step) == 1


@pytest.mark.parametrize("options", [{}, {"master_weights": True, "ema_decay": 0.9}])
def test_a_call_that_accumulates_takes_gradients_and_sums_only(options, monkeypatch):
    optimizer = adam([(3,), (4, 3)], dtype="float16", accumulate_steps=3, **options)
    given, launched = [], launch.Launcher.__call__

    def noted(self, tensors):
        given.append({id(tensor) for tensor in tensors})
        return launched(self, tensors)

    monkeypatch.setattr(launch.Launcher, "__call__", noted)
    run(optimizer, 3)
    of_steps = {id(tensor) for tensor in (*optimizer.parameters, *optimizer.moment1)}
    sums = {id(tensor) for tensor in optimizer.accumulators}
    for tensors, updates in zip(given, (False, False, True)):
        assert sums <= tensors and (of_steps <= tensors) == updates
        assert updates or not of_steps & tensors


# --- rates and rows ------------------------------------------------------------------------------


def test_a_list_of_rates_that_has_ended_is_an_error(mode):
    optimizer = adam([(3,)], [0.1, 0.2])
    run(optimizer, 2)
    says = "has 2 values, and none for step 2"
    with unchanged(optimizer), pytest.raises(RuntimeError, match=says):
        run(optimizer, 1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_lazy": True},
        {"max_grad_norm": 0.5},
        {"flat_state": True},
        {"use_amsgrad": True},
        {"master_weights": True},
        {"use_offload": True},
    ],
    ids=str,
)
def test_rows_have_the_bits_of_the_compiled_step(options, mode):
    shapes = [(3,), (9, 4), (6, 2)]
    both = Pair(shapes, **options)
    rng = np.random.default_rng(0)
    for count in (5, 2, 5):
        rows = Tensor(rng.integers(0, 9, count), ms.int32)
        values = Tensor(rng.standard_normal((count, 4)), ms.float32)
        vector, table = random_tensors(count, [(3,), (6, 2)])
        both((vector, (rows, values), table))
    both.assert_same()


# --- errors: those of the compiled step, before anything changes ---------------------------------


@pytest.mark.parametrize(
    "name, says",
    [
        ("bare tensor", "gradients must be a tuple or list"),
        ("none", "'layer1.weight'.*None"),
        ("shape", "'layer1.weight' must have"),
    ],
)
def test_gradients_that_do_not_fit_a_graph(name, says):
    """Inside of a compiled step the words of test_optimizer's BAD_GRADIENTS."""
    ms.set_context(mode=ms.GRAPH_MODE)

    class Step(nn.Cell):
        def __init__(self, optimizer):
            super().__init__(auto_prefix=False)
            self.optimizer = optimizer

        def construct(self, one, two):
            return self.optimizer(self.choose(one, two))

        def choose(self, one, two):
            if name == "bare tensor":
                return one
            if name == "none":
                return one, None
            return one, one

    optimizer = adam([(3,), (5, 2)])
    with pytest.raises((TypeError, ValueError), match=f"For 'Adam', .*{says}"):
        Step(optimizer)(*random_tensors(0, [(3,), (5, 2)]))
    assert optimizer.global_step.asnumpy() == 0


# --- objects -------------------------------------------------------------------------------------


def test_an_optimizer_for_each_thread():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    shapes = [(300, 200), (1000,)]
    optimizers = [adam(shapes) for _ in range(4)]
    expected = adam(shapes)
    gradients = [random_tensors(i, shapes) for i in range(20)]
    failures = []

    def train(optimizer):
        try:
            for gradient in gradients:
                optimizer(gradient)
        except Exception as error:  # a thread's error ends the test below
            failures.append(error)

    threads = [threading.Thread(target=train, args=(optimizer,)) for optimizer in optimizers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    train(expected)
    assert failures == []
    for optimizer in optimizers:
        assert_same(optimizer, expected)
