"""What changes parameters in place, or reads many at once: the compiled forms equal the reference forms."""

import ctypes

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from gm import ops, system
from gm.ops import fused, native, reference

pytestmark = pytest.mark.skipif(native.library() is None, reason="no compiler here")
# Fewer numbers than a vector, a vector and one more, more than a block of 4096, one alone; with an axis and with more.
SHAPES = [(1,), (3,), (2, 1), (17,), (5, 7), (1, 1, 1), (64, 65), (4097,), (3, 4096), (32,)]
NUMBERS = {"rate": 0.02, "eps": 1e-3, "decay": 0.3, "factor": 0.7}


@pytest.fixture(params=[ops.GRAPH_MODE, ops.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    ops.set_device("CPU", request.param)
    yield request.param
    ops.set_device("CPU", ops.PYNATIVE_MODE)


def parameters(name, seed, least=-3.0):
    random = np.random.default_rng(seed)
    values = (np.maximum(random.standard_normal(shape), least).astype(np.float32) for shape in SHAPES)
    return tuple(Parameter(Tensor(value), name=f"{name}{i}") for i, value in enumerate(values))


def arrays(group):
    return [np.array(p.asnumpy()) for p in group]


class Update(nn.Cell):
    """`construct` of `gm.training.optimizer`'s, with a form of its own."""

    def __init__(self, form, beta2=0.98):
        super().__init__(auto_prefix=False)
        self.form, self.beta2 = form, beta2
        self.weights, self.sums = parameters("weight", 0), parameters("sum", 1)
        self.first, self.second = parameters("first", 2), parameters("second", 3, least=0.1)

    @property
    def groups(self):
        return [self.weights, self.first, self.second, self.sums]

    def construct(self, rate, eps, decay, factor):
        groups = self.weights, self.first, self.second, self.sums
        return self.form(*groups, rate, 0.9, self.beta2, eps, decay, factor)


def update(cell):
    """Its parameters after one more update, the sums' too."""
    cell(*(Tensor(np.float32(x)) for x in NUMBERS.values()))
    return [arrays(group) for group in cell.groups]


class Call(nn.Cell):
    def __init__(self, function, *groups):
        super().__init__(auto_prefix=False)
        self.function, self.groups = function, groups

    def construct(self):
        return self.function(*self.groups)


def test_adamw(mode):
    """Each parameter by itself: after an update, and another one with sums that came by `set_data`."""
    compiled, plain = Update(fused.adamw), Update(reference.adamw)
    for seed in (5, 6):
        for group, expected, before in zip(update(compiled), update(plain), compiled.groups):
            for value, truth, p in zip(group, expected, before):
                np.testing.assert_allclose(value, truth, rtol=1e-6, atol=1e-6, err_msg=p.name)
        assert not any(p.asnumpy().any() for p in compiled.sums)
        for cell in (compiled, plain):
            for p, value in zip(cell.sums, arrays(parameters("next", seed))):
                p.set_data(Tensor(value))


def test_1_minus_beta_is_not_taken_in_float32(mode):
    """It would be 1.3e-5 off."""
    cell = Update(fused.adamw, beta2=0.999)
    for p in cell.second:
        p.set_data(Tensor(np.zeros(p.shape, np.float32)))
    gradients = [total.astype(np.float64) * NUMBERS["factor"] for total in arrays(cell.sums)]
    for value, gradient in zip(update(cell)[2], gradients):
        np.testing.assert_allclose(value, (1 - 0.999) * gradient**2, rtol=1e-6)


def test_square_sum(mode):
    group = parameters("x", 0)
    found = Call(fused.square_sum, group)().asnumpy()
    exact = sum((value.astype(np.float64) ** 2).sum() for value in arrays(group))
    assert found.shape == () and found.dtype == np.float32
    np.testing.assert_allclose([found, Call(reference.square_sum, group)().asnumpy()], exact, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_seen_wherever_it_stands(bad):
    ops.set_device("CPU", ops.PYNATIVE_MODE)
    for shape in ((1,), (17,), (4100,)):
        for at in (0, shape[0] - 1):
            value = np.zeros(shape, np.float32)
            value[at] = bad
            found = fused.square_sum((Parameter(Tensor(value)), Parameter(Tensor(np.ones(5, np.float32)))))
            assert not np.isfinite(found.asnumpy())


def test_the_number_of_threads_changes_no_bit():
    ops.set_device("CPU", ops.PYNATIVE_MODE)
    use = ctypes.CDLL(native.library()).UseThreads
    found = []
    try:
        for count in (1, 2, 7):
            use(ctypes.c_int64(count))
            cell = Update(fused.adamw)
            squares = fused.square_sum(cell.sums).asnumpy()
            found.append([squares, *(value for group in update(cell) for value in group)])
    finally:
        use(ctypes.c_int64(system.processors()))
    for more in found[1:]:
        for value, expected in zip(more, found[0]):
            np.testing.assert_array_equal(value, expected)
