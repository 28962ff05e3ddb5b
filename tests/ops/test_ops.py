"""Every form of an operation that can run here equals the reference form, at edge shapes and in both float types."""

import resource

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from gm import ops
from gm.errors import UserError
from gm.ops import fused, native, reference, table
from tests.near import difference

HAVE_KERNELS = native.library() is not None
if HAVE_KERNELS:
    fused.use(native.library())

PARAMETERS = ("square_sum", "adamw")  # of parameters, in place: test_parameters.py
CPU_ROWS = [row for row in table.ROWS if row.device == "CPU" and (HAVE_KERNELS or not row.compiled)]
CPU_ROWS = [row for row in CPU_ROWS if row.function.__name__ not in PARAMETERS]
CPU_ROWS += [row for row in table.ROWS if row.device == "Ascend" and row.asked]  # their operators run here too
RNG = np.random.default_rng(0)


def normal(*shape, dtype=np.float32):
    return Tensor(RNG.standard_normal(shape).astype(dtype))


# For each operation with more than one form: the arguments of calls that a wrong form would not survive.
CASES = {
    "layer_norm": [
        lambda dtype: (normal(2, 3, 32, dtype=dtype), normal(32), normal(32), 1e-5),
        lambda dtype: (normal(1, 1, 7, dtype=dtype), normal(7), normal(7), 1e-5),
        lambda dtype: (normal(5, 64, dtype=dtype) * 1e-3, normal(64), normal(64), 1e-5),
    ],
    "group_norm": [
        lambda dtype: (normal(2, 64, 3, 5, dtype=dtype), normal(64), normal(64), 32, 1e-5),
        lambda dtype: (normal(1, 32, 1, 1, dtype=dtype), normal(32), normal(32), 32, 1e-6),
        lambda dtype: (normal(1, 96, 1, 7, dtype=dtype) * 1e-3 + 1e-2, normal(96), normal(96), 32, 1e-6),
    ],
    "feed_forward": [
        lambda dtype: (
            normal(2, 3, 7, dtype=dtype),
            normal(2, 3, 7, dtype=dtype),
            normal(2 * 5, 7, dtype=dtype),
            normal(2 * 5, dtype=dtype),
            normal(7, 5, dtype=dtype),
            normal(7, dtype=dtype),
        ),
        lambda dtype: (
            normal(150, 40, dtype=dtype),
            normal(150, 40, dtype=dtype),
            normal(2 * 600, 40, dtype=dtype) / 8,
            normal(2 * 600, dtype=dtype),
            normal(40, 600, dtype=dtype) / 25,
            normal(40, dtype=dtype),
        ),
        lambda dtype: (
            normal(5, 520, dtype=dtype),
            normal(5, 520, dtype=dtype),
            normal(2 * 33, 520, dtype=dtype) / 23,
            normal(2 * 33, dtype=dtype),
            normal(520, 33, dtype=dtype) / 6,
            normal(520, dtype=dtype),
        ),
    ],
    "gelu": [
        lambda dtype: (normal(3, 5, 7, dtype=dtype) * 5,),
        lambda dtype: (normal(1, dtype=dtype),),
        lambda dtype: (normal(300, 333, dtype=dtype) * 3,),
    ],
    "silu": [
        lambda dtype: (normal(3, 5, 7, dtype=dtype) * 5,),
        lambda dtype: (normal(1, dtype=dtype),),
        lambda dtype: (normal(300, 333, dtype=dtype) * 30,),
    ],
    "transpose": [
        lambda dtype: (normal(2, 3, 5, 7, dtype=dtype), 0, 2, 1, 3),
        lambda dtype: (normal(3, 1, 5, dtype=dtype), 1, 0, 2),
        lambda dtype: (normal(3, 4, 5, dtype=dtype), 0, 2, 1),
        lambda dtype: (normal(2, 40, 30, 37, dtype=dtype), 0, 2, 1, 3),
    ],
    "linear_to_tokens": [
        lambda dtype: (normal(2, 6, 5, dtype=dtype), normal(4, 6, dtype=dtype), normal(4, dtype=dtype)),
        lambda dtype: (normal(1, 3, 1, dtype=dtype), normal(3, 3, dtype=dtype), normal(3, dtype=dtype)),
        lambda dtype: tuple(normal(*shape, dtype=dtype) for shape in ((3, 67, 131), (133, 67), (133,))),
    ],
    "add_linear_to_channels": [
        lambda dtype: tuple(normal(*shape, dtype=dtype) for shape in ((2, 4, 5), (2, 5, 6), (4, 6), (4,))),
        lambda dtype: tuple(normal(*shape, dtype=dtype) for shape in ((1, 3, 1), (1, 1, 3), (3, 3), (3,))),
        lambda dtype: tuple(normal(*shape, dtype=dtype) for shape in ((3, 67, 131), (3, 131, 6), (67, 6), (67,))),
        lambda dtype: tuple(normal(*shape, dtype=dtype) for shape in ((3, 131, 67), (3, 67, 6), (131, 6), (131,))),
    ],
    "conv2d": [
        lambda dtype: (normal(2, 5, 4, 6, dtype=dtype), normal(7, 5, 3, 3, dtype=dtype), normal(7, dtype=dtype)),
        lambda dtype: (normal(1, 70, 3, 16, dtype=dtype), normal(13, 70, 3, 3, dtype=dtype)),
        lambda dtype: (normal(1, 3, 37, 45, dtype=dtype), normal(6, 3, 3, 3, dtype=dtype), normal(6, dtype=dtype)),
        lambda dtype: (normal(2, 9, 150, 32, dtype=dtype), normal(8, 9, 3, 3, dtype=dtype), normal(8, dtype=dtype)),
        lambda dtype: (normal(1, 3, 1, 1, dtype=dtype), normal(4, 3, 3, 3, dtype=dtype), normal(4, dtype=dtype)),
        lambda dtype: (normal(2, 33, 21, 29, dtype=dtype), normal(37, 33, 3, 3, dtype=dtype), normal(37, dtype=dtype)),
    ],
    "temporal_conv": [
        lambda dtype: (normal(2, 5, 4, 6, dtype=dtype), normal(7, 5, 3, 1, 1, dtype=dtype), normal(7, dtype=dtype)),
        lambda dtype: (
            normal(1, 70, 14, 331, dtype=dtype),
            normal(13, 70, 3, 1, 1, dtype=dtype),
            normal(13, dtype=dtype),
        ),
        lambda dtype: (normal(1, 3, 1, 1, dtype=dtype), normal(8, 3, 3, 1, 1, dtype=dtype), normal(8, dtype=dtype)),
    ],
    "affine_per_channel": [
        lambda dtype: (normal(2, 3, 5, 7, dtype=dtype), normal(2, 3, dtype=dtype), normal(2, 3, dtype=dtype)),
        lambda dtype: (normal(1, 4, 9, dtype=dtype), normal(1, 4, dtype=dtype), normal(1, 4, dtype=dtype)),
    ],
    "add_to_tokens": [
        lambda dtype: (normal(2, 5, 3, dtype=dtype), normal(2, 1, 3, dtype=dtype)),
        lambda dtype: (normal(2, 5, 3, dtype=dtype), normal(2, 5, 3, dtype=dtype)),
        lambda dtype: (normal(3, 200, 97, dtype=dtype), normal(3, 1, 97, dtype=dtype)),
        lambda dtype: (normal(2, 1, 1, dtype=dtype), normal(2, 1, 1, dtype=dtype)),
    ],
    "add_linear": [
        lambda dtype: (
            normal(2, 3, 7, dtype=dtype),
            normal(2, 3, 5, dtype=dtype),
            normal(7, 5, dtype=dtype),
            normal(7, dtype=dtype),
        ),
        lambda dtype: (
            normal(900, 67, dtype=dtype),
            normal(900, 40, dtype=dtype),
            normal(67, 40, dtype=dtype),
            normal(67, dtype=dtype),
        ),
        lambda dtype: tuple(normal(*shape, dtype=dtype) for shape in ((1, 1), (1, 3), (1, 3), (1,))),
    ],
    "mix": [
        lambda dtype: (normal(2, 3, 5, dtype=dtype), normal(2, 3, 5, dtype=dtype), normal(1, dtype=dtype)),
        lambda dtype: (normal(3, 7, 41, 50, dtype=dtype), normal(3, 7, 41, 50, dtype=dtype), normal(1, dtype=dtype)),
        lambda dtype: (
            normal(3, 7, 331, dtype=dtype),
            normal(3, 7, 331, dtype=dtype),
            normal(3, 1, 1, dtype=dtype),
        ),
        lambda dtype: (normal(1, dtype=dtype), normal(1, dtype=dtype), normal(1, dtype=dtype)),
    ],
    "upsample_nearest": [
        lambda dtype: (normal(2, 3, 4, 5, dtype=dtype),),
        lambda dtype: (normal(1, 1, 1, 1, dtype=dtype),),
        lambda dtype: (normal(2, 70, 9, 67, dtype=dtype),),
    ],
    "log": [
        lambda dtype: (abs(normal(2, 1, 3, dtype=dtype)) + 0.1,),
        lambda dtype: (abs(normal(1, dtype=dtype)) + 2,),  # not near 1: next to 0, the kernel's own error is large
    ],
    "attention": [
        lambda dtype: (normal(3, 5, 8, dtype=dtype), normal(3, 4, 8, dtype=dtype), normal(3, 4, 8, dtype=dtype), 2),
        lambda dtype: tuple(normal(1, 1, 4, dtype=dtype) for _ in range(3)) + (1,),
        lambda dtype: tuple(normal(50, 14, 72, dtype=dtype) for _ in range(3)) + (3,),
        lambda dtype: (normal(2, 33, 8, dtype=dtype), normal(2, 5, 8, dtype=dtype), normal(2, 5, 8, dtype=dtype), 2),
        lambda dtype: (normal(2, 131, 60, dtype=dtype), *(normal(2, 259, 60, dtype=dtype) for _ in range(2)), 3),
        lambda dtype: tuple(normal(1, 64, 96, dtype=dtype) for _ in range(3)) + (1,),
    ],
    "attention_over_pixels": [
        lambda dtype: tuple(normal(2, 4, 15, dtype=dtype) for _ in range(3)),
        lambda dtype: tuple(normal(1, 3, 1, dtype=dtype) for _ in range(3)),
        lambda dtype: tuple(normal(2, 72, 261, dtype=dtype) for _ in range(3)),
    ],
}


CASES["group_norm_silu"] = [
    *CASES["group_norm"],
    lambda dtype: (normal(3, 64, 20, 31, dtype=dtype), normal(64), normal(64), 32, 1e-5),
    lambda dtype: (normal(2, 64, 9, 7, dtype=dtype), normal(64), normal(64), 32, 1e-5, normal(2, 64, dtype=dtype) * 3),
    lambda dtype: (normal(2, 96, 5, 7, dtype=dtype), normal(96), normal(96), 32, 1e-5, normal(2, 96, 5, dtype=dtype)),
    lambda dtype: (normal(1, 32, 4, 83, dtype=dtype), normal(32), normal(32), 32, 1e-5, normal(1, 32, 4, dtype=dtype)),
]


def feed_forward(n, c, inner, out):
    """The case of a feed-forward part in training, nothing of it a multiple of what a kernel takes at once."""

    def case(dtype):
        wide, narrow = normal(2 * inner, c, dtype=dtype) / c**0.5, normal(out, inner, dtype=dtype) / inner**0.5
        x, biases = normal(n, c, dtype=dtype), (normal(2 * inner, dtype=dtype), normal(out, dtype=dtype))
        return normal(n, out, dtype=dtype), x, wide, biases[0], narrow, biases[1], True

    return case


CASES["feed_forward"] += [feed_forward(150, 40, 600, 83), feed_forward(131, 70, 13, 5), feed_forward(1, 3, 1, 2)]
CASES["layer_norm"].append(lambda dtype: (normal(200, 9, 40, dtype=dtype), normal(40), normal(40), 1e-5))


def row_name(row):
    return f"{row.function.__module__.rsplit('.', 1)[1]}.{row.function.__name__}"


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("row", CPU_ROWS, ids=row_name)
def test_cpu_form_equals_reference(row, dtype):
    name = row.function.__name__
    for case in CASES[name]:
        arguments = case(dtype)
        expected = getattr(reference, name)(*arguments).asnumpy()
        found = row.function(*arguments).asnumpy()
        assert found.dtype == expected.dtype == dtype
        limit = 2e-6 if dtype == np.float32 else 2e-3
        assert difference(found, expected) <= limit


def softmax_attention(q, k, v, heads):
    """float64 attention in NumPy."""

    def split(x):
        return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(0, 2, 1, 3).astype(np.float64)

    q, k, v = split(q), split(k), split(v)
    scores = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out = (weights / weights.sum(-1, keepdims=True)) @ v
    return out.transpose(0, 2, 1, 3).reshape(out.shape[0], out.shape[2], -1)


@pytest.mark.parametrize("limit", [2**26, 200, 35, 7, 1])
@pytest.mark.parametrize(("n", "sq", "sk", "heads"), [(3, 7, 7, 2), (1, 1, 1, 1), (2, 5, 3, 4), (1, 13, 1, 2)])
def test_attention_in_pieces_of_any_size(monkeypatch, limit, n, sq, sk, heads):
    monkeypatch.setattr(reference, "MAX_SCORES", limit)
    q, k, v = normal(n, sq, 8 * heads), normal(n, sk, 8 * heads), normal(n, sk, 8 * heads)
    expected = softmax_attention(q.asnumpy(), k.asnumpy(), v.asnumpy(), heads)
    # Over 300 draws the error is 2.7e-6 at most, of values up to 3.
    assert difference(reference.attention(q, k, v, heads).asnumpy(), expected) < 2e-6


@pytest.mark.parametrize("limit", [2**26, 100, 31, 1])
def test_attention_over_pixels_in_pieces_of_any_size(monkeypatch, limit):
    q, k, v = normal(3, 4, 15), normal(3, 4, 15), normal(3, 4, 15)
    expected = reference.attention_over_pixels(q, k, v).asnumpy()
    monkeypatch.setattr(reference, "MAX_SCORES", limit)
    np.testing.assert_allclose(table.cpu.attention_over_pixels(q, k, v).asnumpy(), expected, atol=2e-6)


class Called(nn.Cell):
    """One form of an operation on tensors, as a cell; arguments that are no tensors are constants of the graph."""

    def __init__(self, function, constants, place=None):
        super().__init__()
        self.function = function
        self.constants = constants
        self.place = place  # how many tensors come before the constants; None: all

    def construct(self, *tensors):
        return self.function(*tensors[: self.place], *self.constants, *(tensors[self.place :] if self.place else ()))


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
@pytest.mark.parametrize("row", CPU_ROWS, ids=row_name)
def test_cpu_form_has_the_reference_forms_gradients(row, mode):
    """In both modes: training runs through these forms. The probe makes every output count differently."""
    ms.set_context(mode=mode)
    name = row.function.__name__
    cases = [case(np.float32) for case in (CASES[name] if row.compiled else CASES[name][:1])]
    # Not of groups of one number: their gradient is a difference of equal terms, times 1 / sqrt(eps).
    cases = [arguments for arguments in cases if "norm" not in name or arguments[0].size != 32]
    assert cases
    for arguments in cases:
        for ours, expected in zip(gradients(row.function, arguments), gradients(getattr(reference, name), arguments)):
            assert np.isfinite(expected).all()
            np.testing.assert_allclose(ours, expected, atol=5e-6 * max(1, np.abs(expected).max()))


def gradients(function, arguments):
    """Of the sum of the function's results times random numbers, with respect to every tensor, as arrays."""
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    constants = tuple(a for a in arguments if not isinstance(a, Tensor))
    place = next((i for i, a in enumerate(arguments) if not isinstance(a, Tensor)), None)
    cell = Called(function, constants, place)
    probe = Tensor(np.random.default_rng(1).standard_normal(cell(*tensors).shape).astype(np.float32))
    found = ms.grad(ProbeLoss(cell), tuple(range(len(tensors))))(*tensors, probe)
    return [g.asnumpy() for g in (found if isinstance(found, tuple) else (found,))]


class ProbeLoss(nn.Cell):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def construct(self, *arguments):
        return (self.cell(*arguments[:-1]) * arguments[-1]).sum()


class Attention(nn.Cell):
    def construct(self, q, k, v):
        return ops.attention(q, k, v, 1)


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
def test_attention_over_9216_tokens_never_holds_all_scores(mode):
    """5 heads' worth of scores would be 1.7 GB; peak memory grows by less than 1.5 GB."""
    ms.set_context(mode=mode)
    q = normal(5, 9216, 64)
    Attention()(q[:, :64], q[:, :64], q[:, :64]).asnumpy()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = Attention()(q, q, q).asnumpy()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 1.5e9
    rows = q.asnumpy()[4:, 9000:9003]
    np.testing.assert_allclose(found[4:, 9000:9003], softmax_attention(rows, *[q.asnumpy()[4:]] * 2, 1), atol=1e-5)


def test_temporal_conv_is_the_3d_convolution():
    x, weight, bias = (normal(*shape).asnumpy() for shape in ((2, 3, 4, 6), (5, 3, 3, 1, 1), (5,)))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    taps = (np.einsum("oi,bits->bots", weight[:, :, k, 0, 0], padded[:, :, k : k + 4]) for k in range(3))
    expected = sum(taps) + bias[:, None, None]
    found = reference.temporal_conv(Tensor(x), Tensor(weight), Tensor(bias)).asnumpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_conv2d_pads_top_bottom_left_right():
    x, weight = normal(1, 1, 3, 4).asnumpy(), np.ones((1, 1, 3, 3), np.float32)
    found = reference.conv2d(Tensor(x), Tensor(weight), None, 1, (0, 2, 1, 1)).asnumpy()
    padded = np.pad(x, ((0, 0), (0, 0), (0, 2), (1, 1)))
    expected = sum(padded[:, :, i : i + 3, j : j + 4] for i in range(3) for j in range(3))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_log_of_a_few_values_is_the_same_at_every_launch():
    """The Log kernel itself fails this on 2.8.0."""
    ms.set_context(mode=ms.GRAPH_MODE)
    cell, x = Called(ops.log, ()), Tensor(np.linspace(0.01, 30, 28, dtype=np.float32))
    first = cell(x).asnumpy()
    np.testing.assert_allclose(first, np.log(x.asnumpy()), rtol=1e-6)
    assert all((cell(x).asnumpy() == first).all() for _ in range(20))


def test_gelu_is_the_exact_one():
    x = np.linspace(-6, 6, 1001).astype(np.float32)
    from math import erf

    expected = np.array([v * 0.5 * (1 + erf(v / 2**0.5)) for v in x.astype(np.float64)])
    np.testing.assert_allclose(reference.gelu(Tensor(x)).asnumpy(), expected, atol=1e-6)


def test_upsample_repeats_every_pixel():
    x = normal(2, 3, 4, 5).asnumpy()
    np.testing.assert_array_equal(reference.upsample_nearest(Tensor(x)).asnumpy(), x.repeat(2, 2).repeat(2, 3))


def test_choice_falls_back_to_the_reference():
    assert ops.choose("GPU", (2, 8, 0)) == {name: getattr(reference, name) for name in table.OPERATIONS}
    assert ops.choose("CPU", (2, 8, 0))["layer_norm"] is table.cpu.layer_norm
    assert ops.choose("Ascend", (2, 8, 0))["attention"] is table.ascend.attention
    assert ops.choose("Ascend", (2, 8, 0), chip="ascend910b")["attention"] is table.ascend.attention
    assert ops.choose("Ascend", (2, 8, 0), chip="ascend910")["attention"] is reference.attention


def test_rows_that_must_be_asked_for():
    usual, asked = ops.choose("Ascend", (2, 8, 0)), ops.choose("Ascend", (2, 8, 0), forms=("silu", "group_norm"))
    assert {name for name in usual if usual[name] is not asked[name]} == {"silu", "group_norm"}
    assert asked["silu"] is table.ascend.silu and usual["silu"] is reference.silu
    assert ops.choose("GPU", (2, 8, 0), forms=("silu",))["silu"] is reference.silu


def test_asking_for_a_form_that_does_not_exist(monkeypatch):
    monkeypatch.setenv("SVD_FORMS", "silu, swish")
    with pytest.raises(UserError, match="swish: choose from group_norm, group_norm_silu, layer_norm, silu"):
        ops.set_device("CPU", ops.PYNATIVE_MODE)


@pytest.fixture
def flash(monkeypatch):
    """A stand-in for Ascend's kernel that refuses what its documentation excludes; notes the batches."""
    batches = []

    def kernel(q, k, v, head_num, scalar_value, input_layout):
        n, s, c = q.shape
        head = c // head_num
        assert input_layout == "BSH" and q.dtype in (ms.float16, ms.bfloat16) and 1 <= n <= 2048 and head_num <= 256
        assert k.shape[0] == v.shape[0] == n and head % 16 == 0 and head <= 512
        batches.append(n)
        arrays = (part.astype(ms.float32).asnumpy() for part in (q, k, v))
        q, k, v = arrays
        return Tensor(softmax_attention(q * (scalar_value * head**0.5), k, v, head_num).astype(np.float32)).astype(
            ms.float16
        )

    monkeypatch.setattr(table.ascend.ops, "flash_attention_score", kernel)
    return batches


@pytest.mark.parametrize(
    ("n", "s", "c", "heads", "batches"),
    [
        (2, 5, 128, 2, [2]),
        (4097, 2, 64, 1, [2048, 2048, 1]),  # temporal attention: a row for each pixel
        (2, 5, 24, 3, []),  # heads of 8
        (1, 1, 1024, 1, []),  # a head of 1024
    ],
)
def test_flash_attention_is_given_what_it_takes(flash, n, s, c, heads, batches):
    q, k, v = (normal(n, s, c, dtype=np.float16) for _ in range(3))
    found = table.ascend.attention(q, k, v, heads)
    assert flash == batches and found.dtype == ms.float16
    expected = reference.attention(q, k, v, heads).asnumpy().astype(np.float32)
    np.testing.assert_allclose(found.asnumpy().astype(np.float32), expected, atol=5e-3 * np.abs(expected).max())


def test_flash_attention_leaves_float32_alone(flash):
    q = normal(2, 5, 64)
    table.ascend.attention(q, q, q, 1)
    assert flash == []


def test_every_row_replaces_an_operation_and_says_why():
    for row in table.ROWS:
        assert row.function.__name__ in table.OPERATIONS
        assert len(row.reason) > 20
        assert row.device != "CPU" or row.function.__name__ in {*CASES, *PARAMETERS}, "no test compares this row"
    assert set(ops.choose("CPU", (2, 8, 0), True)) <= set(vars(ops))


def test_kernels_are_chosen_only_where_they_are():
    chosen = ops.choose("CPU", (2, 8, 0), True)
    compiled = [row.function for row in table.ROWS if row.compiled and row.device == "CPU"]
    assert compiled and all(chosen[function.__name__] is function for function in compiled)
    for device in ("CPU", "GPU"):
        assert ops.choose(device, (2, 8, 0), False)["feed_forward"] is reference.feed_forward
    assert ops.choose("GPU", (2, 8, 0), True)["feed_forward"] is table.gpu.feed_forward


def test_table_is_printable():
    text = ops.describe("CPU", (2, 8, 0), True)
    assert all(f"\n  {name} " in text for name in table.OPERATIONS)  # a column of its own, however long the name is
    assert "flash_attention_score" in text


@pytest.mark.parametrize(("device", "mode", "word"), [("TPU", 0, "TPU"), ("CPU", 2, "mode 2")])
def test_device_and_mode_that_do_not_exist(device, mode, word):
    with pytest.raises(UserError, match=word):
        ops.set_device(device, mode)
