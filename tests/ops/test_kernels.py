"""The compiled kernels by themselves: accuracy, extremes, memory errors, and what happens without a compiler."""

import ctypes
import os
import shutil
import subprocess
import sys
from math import erf
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from gm import built, cpp, ops, system
from gm.ops import fused, native

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which("g++") or shutil.which("clang++")
needs_kernels = pytest.mark.skipif(native.library() is None, reason="no compiler here")


@pytest.fixture
def kernels():
    ops.set_device("CPU", ops.PYNATIVE_MODE)
    return fused


@needs_kernels
def test_geglu_has_the_exact_gelu(kernels):
    """Error at most 1e-6 against erf in double precision, from the middle to where the function is 0 or x."""
    x = np.linspace(-12, 12, 4801).astype(np.float32)
    # One row each: the value is 1, the gate x.
    weight, bias = Tensor(np.array([[0.0], [1.0]], np.float32)), Tensor(np.array([1.0, 0.0], np.float32))
    found = kernels.geglu(Tensor(x[:, None]), weight, bias).asnumpy()[:, 0]
    expected = np.array([v * 0.5 * (1 + erf(v / 2**0.5)) for v in x.astype(np.float64)])
    np.testing.assert_allclose(found, expected, atol=1e-6)


@needs_kernels
@pytest.mark.parametrize("count", [65536, 65535, 17, 1, 0])
def test_float16_is_widened_to_the_last_bit(count):
    """Every float16 there is: subnormal, infinite and NaN too."""
    values = np.arange(65536, dtype=np.uint16)[-count:].view(np.float16) if count else np.zeros(0, np.float16)
    found = np.empty(count, np.float32)
    assert native._widen() is not None
    native.convert(found, values)
    np.testing.assert_array_equal(found.view(np.uint32), values.astype(np.float32).view(np.uint32))


@needs_kernels
def test_silu_at_the_ends_of_the_range(kernels):
    x = np.array([-1e30, -200, -88, -20, -0.0, 0, 20, 88, 200, 1e30], np.float32)
    found = kernels.silu(Tensor(x)).asnumpy()
    expected = np.array([0, 0, 0, -20 / (1 + np.exp(20.0)), 0, 0, 20, 88, 200, 1e30])
    np.testing.assert_allclose(found[1:], expected[1:], atol=1e-6, rtol=1e-6)
    assert np.isfinite(found).all()


@needs_kernels
def test_norms_of_numbers_far_from_zero(kernels):
    """A mean of 1000 deviations: the variance comes from differences to the mean, not from a difference of squares."""
    x = (1000 + np.random.default_rng(0).standard_normal((2, 64, 10, 10))).astype(np.float32)
    ones, zeros = Tensor(np.ones(64, np.float32)), Tensor(np.zeros(64, np.float32))
    exact = x.astype(np.float64).reshape(2, 32, -1)
    exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    found = kernels.group_norm(Tensor(x), ones, zeros, 32, 1e-12).asnumpy()
    np.testing.assert_allclose(found.reshape(exact.shape), exact, atol=1e-3)


PLAIN = [((2, 70, 9, 32), 13), ((3, 5, 6, 7), 13), ((1, 9, 5, 80), 13)]  # neither
# Wide and large enough for gm/ops/native/winograd.h, over time too: odd sizes, more channels than it takes at once,
# rows of more tiles than it takes at once, rows of a few and of one, the fewest.
TILED = [
    ((2, 33, 21, 29), 37),
    ((1, 150, 28, 28), 32),
    ((1, 40, 5, 131), 50),
    ((3, 34, 27, 9), 33),
    ((2, 32, 130, 1), 32),
]
TILED += [((5, 32, 16, 15), 40)]

# Few and wide enough for gm/ops/native/few_pixels.h: several pictures in a block and fewer in the last, a last group of
# channels that overlaps the one before, more channels than are summed at once, blocks of several parts, rows of one.
FEW = [((7, 12, 2, 2), 40), ((5, 19, 4, 5), 33), ((1, 8, 3, 1), 300), ((2, 33, 11, 10), 34), ((1, 9, 5, 131), 40)]
# More channels than are held at once, more blocks than are computed at once.
MANY = [((3, 130, 5, 4), 25), ((130, 3, 4, 4), 26)]


@needs_kernels
@pytest.mark.parametrize(("shape", "out"), [*PLAIN, *TILED, *FEW, *MANY])
@pytest.mark.parametrize("taps", [3, 1])
def test_a_convolution_by_its_definition(kernels, shape, out, taps):
    """In double precision: where a picture ends, zeros are beside it, in rows and channels of every remainder.

    And a picture's result is the same bits when it comes alone.
    """
    random = np.random.default_rng(0)
    weight = random.standard_normal((out, shape[1], 3, taps)).astype(np.float32)
    x, bias = random.standard_normal(shape).astype(np.float32), random.standard_normal(out).astype(np.float32)
    around = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (taps // 2, taps // 2)))
    expected = bias[:, None, None] + sum(
        np.einsum("oi,nihw->nohw", weight[:, :, i, j], around[:, :, i : i + shape[2], j : j + shape[3]])
        for i in range(3)
        for j in range(taps)
    )
    kernel, shaped = (kernels.conv2d, weight) if taps == 3 else (kernels.temporal_conv, weight[..., None])
    found, alone = (kernel(Tensor(v), Tensor(shaped), Tensor(bias)).asnumpy() for v in (x, x[-1:]))
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(alone, found[-1:])


@needs_kernels
@pytest.mark.parametrize(("shape", "out"), TILED[:3])
@pytest.mark.parametrize("taps", [3, 1])
def test_a_convolution_by_tiles_is_as_exact(kernels, shape, out, taps):
    """Against double precision no further off than the same sums in plain float32; pictures larger than a tile."""
    random = np.random.default_rng(0)
    x = random.standard_normal(shape).astype(np.float32)
    weight = (random.standard_normal((out, shape[1], 3, taps)) / np.sqrt(3 * taps * shape[1])).astype(np.float32)
    around = np.pad(x, ((0, 0), (0, 0), (1, 1), (taps // 2, taps // 2)))
    patches = np.lib.stride_tricks.sliding_window_view(around, (3, taps), (2, 3))
    exact = np.einsum("oiab,nihwab->nohw", weight.astype(np.float64), patches.astype(np.float64), optimize=True)
    plain = sum(weight[:, c, a, b, None, None] * around[:, None, c, a : a + shape[2], b : b + shape[3]]
                for c in range(shape[1]) for a in range(3) for b in range(taps))  # fmt: skip
    kernel, shaped = (kernels.conv2d, weight) if taps == 3 else (kernels.temporal_conv, weight[..., None])
    found = kernel(Tensor(x), Tensor(shaped), Tensor(np.zeros(out, np.float32))).asnumpy()
    assert np.sqrt(((found - exact) ** 2).mean()) <= np.sqrt(((plain - exact) ** 2).mean())


def gradients_of_a_convolution(kernels, x, weight, dy):
    """Of input and weights, as arrays: x (n, in, h, w), weight (out, in, 3, taps), dy (n, out, h, w)."""

    def product(x, weight):
        three = weight.shape[3] == 3
        y = kernels.conv2d(x, weight) if three else kernels.temporal_conv(x, weight.expand_dims(4), none)
        return (y * Tensor(dy)).sum()

    none = Tensor(np.zeros(len(weight), np.float32))
    return [gradient.asnumpy() for gradient in ms.grad(product, (0, 1))(Tensor(x), Tensor(weight))]


@needs_kernels
@pytest.mark.parametrize(("shape", "out"), FEW)
@pytest.mark.parametrize("taps", [3, 1])
def test_a_convolutions_gradients_by_their_definition(kernels, shape, out, taps):
    """In double precision; and those of a picture's input are the same bits when it comes alone."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((out, shape[1], 3, taps)).astype(np.float32)
    x = random.standard_normal(shape).astype(np.float32)
    dy = random.standard_normal((shape[0], out, *shape[2:])).astype(np.float32)
    around = [np.pad(v.astype(np.float64), ((0, 0), (0, 0), (1, 1), (taps // 2, taps // 2))) for v in (x, dy)]
    dx, dweight = np.zeros(shape), np.zeros(weight.shape)
    for i in range(3):
        for j in range(taps):
            moved = [
                v[:, :, a : a + shape[2], b : b + shape[3]] for v, a, b in zip(around, (i, 2 - i), (j, taps - 1 - j))
            ]
            dx += np.einsum("oi,nohw->nihw", weight[:, :, i, j], moved[1])
            dweight[:, :, i, j] = np.einsum("nohw,nihw->oi", dy, moved[0])
    found = gradients_of_a_convolution(kernels, x, weight, dy)
    np.testing.assert_allclose(found[0], dx, atol=1e-6 * np.abs(dx).max())
    np.testing.assert_allclose(found[1], dweight, atol=1e-6 * np.abs(dweight).max())
    alone = gradients_of_a_convolution(kernels, x[-1:], weight, dy[-1:])
    np.testing.assert_array_equal(alone[0], found[0][-1:])


@needs_kernels
@pytest.mark.parametrize(("shape", "out"), [*FEW[:2], *TILED[3:4], ((3, 5, 6, 7), 13)])
@pytest.mark.parametrize("taps", [3, 1])
def test_a_convolution_writes_its_result_and_nothing_beside_it(shape, out, taps):
    """Before and behind the result, and of every float of it: sums of ones are not what was there."""
    library, wide = ctypes.CDLL(native.library()), (shape[0], out, *shape[2:])
    x, weight, dy = (np.ones(s, np.float32) for s in (shape, (out, shape[1], 3, taps), wide))
    for kernel, arrays, result in (
        (library.Convolution, (x, weight, np.ones(out, np.float32)), wide),
        (library.ConvolutionInputGradient, (weight, dy), shape),
    ):
        memory = np.full((3, int(np.prod(result))), -1, np.float32)
        arrays = (*arrays, memory[1].reshape(result))
        shapes = [(ctypes.c_int64 * a.ndim)(*a.shape) for a in arrays]
        done = kernel(
            len(arrays),
            (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays)),
            (ctypes.c_int * len(arrays))(*(a.ndim for a in arrays)),
            (ctypes.c_void_p * len(arrays))(*map(ctypes.addressof, shapes)),
            (ctypes.c_char_p * len(arrays))(*[b"float32"] * len(arrays)),
            None,
            None,
        )
        assert done == 0 and (memory[[0, 2]] == -1).all() and (memory[1] > 0).all()


@needs_kernels
def test_a_convolutions_gradient_with_not_a_number_beside_others(kernels):
    """It reaches the pixels around it of its own picture, though several are computed side by side."""
    dy = np.ones((3, 32, 4, 4), np.float32)
    dy[1, 0, 0, 3] = np.nan
    ones = np.ones((3, 8, 4, 4), np.float32)
    found, _ = gradients_of_a_convolution(kernels, ones, np.ones((32, 8, 3, 3), np.float32), dy)
    around = np.zeros((4, 4), bool)
    around[:2, 2:] = True
    assert (np.isnan(found[1]) == around).all() and np.isfinite(found[[0, 2]]).all()


@needs_kernels
@pytest.mark.parametrize(("channels", "side"), [(3, 4), (3, 13), (32, 40)])
def test_a_convolution_with_not_a_number_beside_others(kernels, channels, side):
    """It reaches the pixels around it, no others: what a thread's memory holds of an image before does not count."""
    x = np.ones((2, channels, side, side), np.float32)
    x[0, 0, 2, 3] = np.nan
    found = kernels.conv2d(Tensor(x), Tensor(np.ones((32, channels, 3, 3), np.float32))).asnumpy()
    around = np.zeros((side, side), bool)
    around[1:4, 2:5] = True
    assert (np.isnan(found[0]) == around).all() and np.isfinite(found[1]).all()


@needs_kernels
def test_not_a_number_stays_one(kernels):
    x = np.ones((1, 64, 2, 2), np.float32)
    x[0, 0, 0, 0] = np.nan
    ones = Tensor(np.ones(64, np.float32))
    found = kernels.group_norm_silu(Tensor(x), ones, ones, 32, 1e-5).asnumpy()
    assert np.isnan(found[0, :2]).all()
    assert np.isfinite(found[0, 2:]).all()


@needs_kernels
@pytest.mark.parametrize("order", [1, -1])
def test_scores_that_rise_or_fall_by_hundreds_from_key_to_key(kernels, order):
    """Either what was summed up has to vanish or what is to come: the result is the value of the highest key."""
    keys = np.arange(300, dtype=np.float32)[::order, None] * np.ones((1, 4), np.float32)
    q, k = np.full((1, 100, 4), 50, np.float32), keys[None]
    v = np.random.default_rng(0).standard_normal((1, 300, 4)).astype(np.float32)
    found = kernels.attention(Tensor(q), Tensor(k), Tensor(v), 1).asnumpy()
    np.testing.assert_allclose(found, np.repeat(v[:, 299 if order == 1 else 0][:, None], 100, 1), rtol=1e-6)


@needs_kernels
def test_same_bits_at_every_call(kernels):
    arguments = [
        Tensor(np.random.default_rng(i).standard_normal(s).astype(np.float32))
        for i, s in enumerate([(900, 64), (64,), (64,)])
    ]
    gradient = ms.grad(lambda *a: kernels.layer_norm(*a, 1e-5).sum(), (0, 1, 2))
    first = [g.asnumpy() for g in gradient(*arguments)]
    for _ in range(5):
        for again, before in zip(gradient(*arguments), first):
            np.testing.assert_array_equal(again.asnumpy(), before)


def in_new_process(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}
    )


SHOW = "from gm.ops import native; print(native.library())"


def test_without_a_compiler_one_line_says_so(tmp_path):
    done = in_new_process(SHOW, PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert done.stdout.strip() == "None"
    assert done.stderr.count("\n") == 1
    assert "install g++" in done.stderr


def test_a_compiler_that_fails(tmp_path):
    fake = tmp_path / "g++"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho out of luck >&2\nexit 1\n')
    fake.chmod(0o755)
    done = in_new_process(SHOW, PATH=f"{tmp_path}:/bin:/usr/bin", XDG_CACHE_HOME=str(tmp_path))
    assert done.stdout.strip() == "None"
    assert "out of luck" in done.stderr
    assert not list(tmp_path.glob("**/*.so"))


def test_who_asks_while_they_are_compiled_waits_and_mindspore_is_not_wanted(tmp_path):
    fake = tmp_path / "g++"
    fake.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/calls\n[ "$1" = --version ] && exec sleep 0.3\nexit 1\n')
    fake.chmod(0o755)
    ask = "import sys; from gm import kernels; kernels.begin(); print(kernels.library(), 'mindspore' in sys.modules)"
    done = in_new_process(ask, PATH=f"{tmp_path}:/bin:/usr/bin", XDG_CACHE_HOME=str(tmp_path))
    assert done.stdout.strip() == "None False" and done.stderr.count("could not compile") == 1
    assert (tmp_path / "calls").read_text().split().count("--version") == 1


@needs_kernels
def test_compiled_once_and_found_again_but_not_where_it_is_damaged(tmp_path):
    first = in_new_process(SHOW, XDG_CACHE_HOME=str(tmp_path)).stdout
    path = Path(first.strip())
    content, written = path.read_bytes(), path.stat().st_mtime_ns
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert built.find(path.parent, "kernels", path.name.split("-")[1]) == path and path.stat().st_mtime_ns == written
    for damaged in (b"", content[:5000], bytes(len(content)), content[:-1] + b"x"):
        path.write_bytes(damaged)
        assert built.find(path.parent, "kernels", path.name.split("-")[1]) is None and not path.exists()
    path.write_bytes(bytes(len(content)))  # a bus error, if it were loaded
    assert in_new_process(SHOW, XDG_CACHE_HOME=str(tmp_path)).stdout == first
    assert path.read_bytes() == content


@needs_kernels
def test_a_library_that_others_could_write_is_not_loaded(tmp_path):
    (tmp_path / "svd_mindspore").mkdir()
    key = cpp.key(COMPILER, *native.sources())
    content = b"planted"
    path = tmp_path / "svd_mindspore" / f"kernels-{key}-{built.digest(content)}.so"
    for mode in (0o600, 0o620, 0o602):
        path.write_bytes(content)
        path.chmod(mode)
        assert (built.find(path.parent, "kernels", key) is None) == (mode != 0o600)
    path.symlink_to(tmp_path)
    assert built.find(path.parent, "kernels", key) is None
    if os.geteuid() == 0:
        path.write_bytes(content)
        os.chown(path, 12345, 12345)
        assert built.find(path.parent, "kernels", key) is None


@pytest.mark.parametrize("reason", ["others can write", "':' in its name", "Not a directory"])
def test_where_they_cannot_be_kept_they_are_compiled_for_this_run(tmp_path, monkeypatch, capsys, reason):
    base = tmp_path / ("a:b" if ":" in reason else "cache")
    base.touch() if "Not" in reason else base.mkdir()
    if "others" in reason:
        base.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(base))
    closing = []
    monkeypatch.setattr(built.atexit, "register", closing.append)
    folder = built.kept_folder()
    assert reason in capsys.readouterr().err
    assert tmp_path not in folder.parents and folder.stat().st_mode & 0o777 == 0o700
    closing[0]()
    assert not folder.exists()


@needs_kernels
def test_a_compiler_that_speaks_another_encoding(tmp_path):
    fake = tmp_path / "g++"
    fake.write_bytes(b"#!/bin/sh\nprintf 'caf\\351\\n'\nprintf 'd\\351faut\\n' >&2\n[ \"$1\" = --version ]\n")
    fake.chmod(0o755)
    done = in_new_process(SHOW, PATH=f"{tmp_path}:/bin:/usr/bin", XDG_CACHE_HOME=str(tmp_path))
    assert done.stdout.strip() == "None" and "faut" in done.stderr and "Traceback" not in done.stderr


def test_kernels_can_be_left_out():
    assert in_new_process(SHOW, SVD_KERNELS="0").stdout.strip() == "None"


@needs_kernels
def test_the_number_of_threads_changes_no_bit(kernels):
    use = ctypes.CDLL(native.library()).UseThreads
    x = Tensor(np.random.default_rng(0).standard_normal((3, 64, 40, 40)).astype(np.float32))
    tokens = x.reshape((3, 1600, 64))
    weight, bias = Tensor(np.linspace(0.5, 1.5, 64, dtype=np.float32)), Tensor(np.zeros(64, np.float32))
    taps = Tensor(np.random.default_rng(1).standard_normal((64, 64, 3, 3)).astype(np.float32))
    wide, narrow = taps.reshape((-1, 64))[:400] / 8, taps.reshape((64, -1))[:, :200] / 8
    layers = (tokens[0, :900], tokens[1, :900], wide, taps.reshape(-1)[:400], narrow, bias)

    def results():
        gradient = ms.grad(lambda v: kernels.attention(v, v, v, 2).sum())(tokens)
        normed = kernels.group_norm_silu(x, weight, bias, 32, 1e-5)
        convolved = ms.grad(lambda v, w: (kernels.conv2d(v, w, bias) ** 2).sum(), (0, 1))(x, taps)
        few = ms.grad(lambda v, w: (kernels.conv2d(v, w, bias) ** 2).sum(), (0, 1))(x[:, :, :5, :4], taps)
        over_time = taps[:, :, :, :1].expand_dims(4)
        timed = ms.grad(lambda v, w: (kernels.temporal_conv(v, w, bias) ** 2).sum(), (0, 1))(x[:, :, :4], over_time)
        mixed = ms.grad(lambda v, share: (kernels.mix(v, v * v, share) ** 2).sum(), (0, 1))(x, weight[:1])
        fed = ms.grad(lambda *v: (kernels.feed_forward(*v, True) ** 2).sum(), (0, 1, 2, 3, 4, 5))(*layers)
        added = ms.grad(lambda v: (kernels.add_to_tokens(tokens, v) ** 2).sum())(tokens[:, :1])
        return [
            normed,
            *mixed,
            *fed,
            added,
            kernels.attention(tokens, tokens, tokens, 2),
            gradient,
            kernels.conv2d(x, taps, bias),
            *convolved,
            *few,
            *timed,
        ]

    try:
        found = []
        for count in (1, 2, 7):
            use(ctypes.c_int64(count))
            found.append([value.asnumpy() for value in results()])
    finally:
        use(ctypes.c_int64(system.processors()))
    for more in found[1:]:
        for value, expected in zip(more, found[0]):
            np.testing.assert_array_equal(value, expected)


@pytest.mark.skipif(COMPILER is None, reason="no compiler here")
@pytest.mark.parametrize("flags", [("-O1",), pytest.param(("-O1", "-g", "-fsanitize=thread"), marks=pytest.mark.slow)])
def test_every_part_of_a_loop_is_done_once_whoever_else_runs_one(tmp_path, flags):
    program = tmp_path / "check"
    subprocess.run(
        [
            COMPILER,
            *flags,
            "-std=c++17",
            "-pthread",
            str(Path(__file__).with_name("pool_check.cpp")),
            str(native.FOLDER / "pool.cpp"),
            "-o",
            str(program),
        ],
        check=True,
    )
    done = subprocess.run(
        [program], capture_output=True, text=True, timeout=120, env={**os.environ, "TSAN_OPTIONS": "die_after_fork=0"}
    )
    assert (done.returncode, done.stdout) == (0, "0 wrong\n"), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no compiler here")
@pytest.mark.parametrize("width", [(), ("-march=native",)], ids=["narrow", "native"])
def test_under_the_sanitizers(tmp_path, width):
    """Every kernel once at shapes with remainders, with address and undefined-behaviour checks.

    At two widths of the vectors, as the shapes of which a kernel takes which way depend on it.
    """
    program = tmp_path / "check"
    subprocess.run(
        [
            COMPILER,
            "-O1",
            "-g",
            *width,
            "-std=c++17",
            "-pthread",
            "-Wno-psabi",
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=all",
            str(Path(__file__).with_name("sanitize.cpp")),
            *map(str, native.FOLDER.glob("*.cpp")),
            str(ROOT / "gm/data/ycbcr.cpp"),
            "-o",
            str(program),
        ],
        check=True,
    )
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "all kernels called"
