"""The forms for GPUs as far as a machine without one can tell: what kernels are given and give back, by stand-ins;
their gradients; and which compiler makes them. docs/gpu.md says what a GPU said."""

import re
import shutil
import subprocess
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from gm import built
from gm.ops import cuda, gpu, reference
from tests.near import difference

RNG = np.random.default_rng(0)
LIMIT = 2e-6


def normal(*shape):
    return Tensor(RNG.standard_normal(shape).astype(np.float32))


@pytest.fixture
def stand_ins(monkeypatch):
    """The kernels' contracts, as the .cu files state them, in plain operators."""

    def norm(x, weight, bias, eps):
        assert x.ndim == 4 and weight.shape == bias.shape == (x.shape[1] * x.shape[2],) and eps.shape == (1,)
        y = gpu._norm_reference(x, weight, bias, float(eps))
        return y, Tensor(np.zeros(gpu._norm_shapes(x.shape)[1], np.float32))

    def norm_silu(*inputs):
        y, statistics = norm(*inputs)
        return reference.silu(y), statistics

    def attention(q, k, v, heads):
        return reference.attention(q, k, v, len(heads))

    def add_to_tokens(x, values):
        assert x.ndim == 3 and values.shape == (x.shape[0], 1, x.shape[2])
        return reference.add_to_tokens(x, values)

    def mix(first, second, share):
        assert share.size == 1
        return reference.mix(first, second, share)

    kernels = {
        "attention": attention,
        "geglu": gpu._geglu_reference,
        "silu": reference.silu,
        "group_norm": norm,
        "group_norm_silu": norm_silu,
        "layer_norm": lambda x, weight, bias, eps: reference.layer_norm(x, weight, bias, float(eps)),
        "add_per_channel": reference.add_per_channel,
        "add_to_tokens": add_to_tokens,
        "mix": mix,
        "upsample": reference.upsample_nearest,
    }
    assert kernels.keys() == vars(gpu._made("kernels.so")).keys()
    monkeypatch.setattr(gpu, "_kernels", SimpleNamespace(**kernels))


CALLS = {
    "attention": [(normal(2, 5, 128), normal(2, 7, 128), normal(2, 7, 128), 2), (normal(1, 3, 48),) * 3 + (2,)],
    "geglu": [(normal(2, 3, 8), normal(24, 8), normal(24))],
    "feed_forward": [(normal(2, 3, 8), normal(2, 3, 8), normal(24, 8), normal(24), normal(8, 12), normal(8))],
    "silu": [(normal(3, 5, 7),)],
    "layer_norm": [(normal(2, 3, 32), normal(32), normal(32), 1e-5)],
    "group_norm": [
        (normal(2, 64, 3, 5), normal(64), normal(64), 32, 1e-5),
        (normal(1, 32, 1, 1), normal(32), normal(32), 32, 1.0),
    ],
    "group_norm_silu": [
        (normal(2, 64, 3, 5), normal(64), normal(64), 32, 1e-5),
        (normal(2, 64, 3, 5), normal(64), normal(64), 32, 1e-5, normal(2, 64, 3)),
    ],
    "add_per_channel": [(normal(2, 3, 4, 5), normal(2, 3)), (normal(2, 3, 4, 5), normal(2, 3, 4))],
    "add_to_tokens": [(normal(2, 3, 4), normal(2, 1, 4)), (normal(2, 3, 4), normal(2, 3, 4))],
    "mix": [(normal(2, 3, 4), normal(2, 3, 4), normal(1)), (normal(2, 3, 4), normal(2, 3, 4), normal(2, 1, 1))],
    "upsample_nearest": [(normal(2, 3, 4, 5),)],
}


@pytest.mark.parametrize("name", CALLS)
def test_forms_equal_the_reference(stand_ins, name):
    for arguments in CALLS[name]:
        expected = getattr(reference, name)(*arguments)
        assert difference(getattr(gpu, name)(*arguments), expected) <= LIMIT


class Kernel(nn.Cell):
    """A stand-in with the gradient of the kernel itself."""

    def __init__(self, forward, backward):
        super().__init__()
        self.forward, self.backward = forward, backward

    def construct(self, *inputs):
        return self.forward(*inputs)

    def bprop(self, *inputs):
        return self.backward(*inputs)


def gradients(form, arguments):
    """By all tensors."""
    places = tuple(place for place, argument in enumerate(arguments) if isinstance(argument, Tensor))
    found = ms.grad(lambda *inputs: (form(*inputs) ** 2).sum(), places)(*arguments)
    return list(found) if isinstance(found, tuple) else [found]


@pytest.mark.parametrize("name", [name for name in CALLS if name != "attention"])
def test_gradients_are_the_references(stand_ins, monkeypatch, name):
    forward, kernels = vars(gpu._kernels), vars(gpu._made("kernels.so"))
    both = {each: Kernel(forward[each], kernels[each].get_bprop()) for each in kernels}
    monkeypatch.setattr(gpu, "_kernels", SimpleNamespace(**both))
    for arguments in CALLS[name]:
        found, expected = gradients(getattr(gpu, name), arguments), gradients(getattr(reference, name), arguments)
        for one, other in zip(found, expected):
            scale = max(1, abs(other.asnumpy()).max())  # of single pixels the norm's gradient is 0
            np.testing.assert_allclose(one.asnumpy(), other.asnumpy(), rtol=0, atol=10 * LIMIT * scale)


@pytest.mark.parametrize("name", CALLS)
def test_a_type_that_no_kernel_was_written_for_goes_to_the_reference(monkeypatch, name):
    """bfloat16 would be read as float32."""
    monkeypatch.setattr(reference, name, lambda *_: "reference")
    arguments = [a.astype(ms.bfloat16) if isinstance(a, Tensor) else a for a in CALLS[name][0]]
    assert getattr(gpu, name)(*arguments) == "reference"


def test_attention_of_float32_and_of_other_heads_goes_to_the_reference(monkeypatch):
    monkeypatch.setattr(reference, "attention", lambda *_: "reference")
    q = normal(1, 3, 160)
    assert gpu.attention(q, q, q, 5) == "reference"  # heads of 32, float32
    half = q.astype(ms.float16)
    assert gpu.attention(half, half, half, 2) == "reference"  # heads of 80, as in CLIP


def softmax_gradients(q, k, v, dout, heads):
    """In float64, from the formula of the derivative."""
    n, _, c = q.shape
    q, k, v, dout = (
        x.asnumpy().astype(np.float64).reshape(n, -1, heads, c // heads).swapaxes(1, 2) for x in (q, k, v, dout)
    )
    scale = (c // heads) ** -0.5
    p = np.exp(scale * q @ k.swapaxes(2, 3))
    p /= p.sum(-1, keepdims=True)
    dp = dout @ v.swapaxes(2, 3)
    ds = p * (dp - (dp * p).sum(-1, keepdims=True))
    found = scale * ds @ k, scale * ds.swapaxes(2, 3) @ q, p.swapaxes(2, 3) @ dout
    return [x.swapaxes(1, 2).reshape(n, -1, c) for x in found]


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
@pytest.mark.parametrize("most", [2**26, 150, 40, 1])
def test_gradients_of_attention_in_pieces_of_any_size(monkeypatch, most, mode):
    monkeypatch.setattr(reference, "MAX_SCORES", most)
    inputs = normal(2, 5, 8), normal(2, 7, 8), normal(2, 7, 8)
    dout = normal(2, 5, 8)

    def gradients(q, k, v, dout):
        return gpu._attention_gradient(q, k, v, 2, dout)

    found = (ms.jit(gradients) if mode == ms.GRAPH_MODE else gradients)(*inputs, dout)
    for one, expected in zip(found, softmax_gradients(*inputs, dout, 2)):
        assert np.abs(one.asnumpy() - expected).max() <= LIMIT * np.abs(expected).max()


def test_python_and_cuda_name_the_same_kernels():
    sources = "".join(path.read_text() for path in cuda.FOLDER.glob("*.cu"))
    called = {kernel.func.split(":")[1] for kernel in vars(gpu._made("kernels.so")).values()}
    assert set(re.findall(r"^KERNEL\((\w+)\)", sources, re.M)) == called


def fake_nvcc(path, knows=("sm_90", "compute_80")):
    """One that says a version, and makes a file where it knows the code that is asked for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cases = "|".join(f"*code={code}*" for code in knows) or "never"
    path.write_text(f"""#!/bin/sh
[ "$1" = --version ] && echo 'release 11.6' && exit 0
case "$*" in {cases}) ;; *) echo 'nvcc fatal: Unsupported gpu architecture' >&2; exit 1;; esac
echo "$*" >> {path.parent}/asked
while [ "$1" != -o ]; do shift; done
cp {shutil.which("true")} "$2"
""")
    path.chmod(0o755)
    return path


@pytest.fixture
def card(monkeypatch, tmp_path):
    """A machine with a card of compute capability 9.0, no nvcc, and a home of its own; the list of what was loaded."""
    monkeypatch.setattr(cuda, "compute_capability", lambda device: (9, 0))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("SVD_KERNELS", raising=False)
    loaded = []
    monkeypatch.setattr(cuda.ctypes, "CDLL", loaded.append)
    found = cuda.compilers
    monkeypatch.setattr(cuda, "compilers", lambda: [path for path in found() if path.startswith(str(tmp_path))])
    cuda.library.cache_clear()
    yield loaded
    cuda.library.cache_clear()


@pytest.mark.parametrize(
    ("knows", "target"), [(("sm_90", "compute_80"), "sm_90"), (("compute_80",), "code=compute_80")]
)
def test_the_best_code_that_the_compiler_knows(card, tmp_path, knows, target):
    fake_nvcc(tmp_path / "cuda/bin/nvcc", knows)
    path = cuda.library()
    assert card == [path] and path.startswith(str(tmp_path / "cache/svd_mindspore/cuda-"))
    asked = (tmp_path / "cuda/bin/asked").read_text()
    assert asked.count("\n") == 1 and target in asked and "attention.cu" in asked
    cuda.library.cache_clear()
    assert cuda.library() == path and (tmp_path / "cuda/bin/asked").read_text() == asked  # kept


def test_the_next_compiler_where_one_fails(card, tmp_path, capsys):
    fake_nvcc(tmp_path / "cuda/bin/nvcc", ())
    fake_nvcc(tmp_path / "bin/nvcc")
    assert cuda.library() == card[0] and (tmp_path / "bin/asked").exists()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda place: None, "no nvcc in $CUDA_HOME/bin, on PATH"),
        (lambda place: fake_nvcc(place / "bin/nvcc", ()), "Unsupported gpu architecture"),
    ],
)
def test_without_a_compiler_one_line_says_so(card, tmp_path, capsys, prepare, words):
    prepare(tmp_path)
    assert cuda.library() is None
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_an_older_card_does_without(card, monkeypatch, capsys):
    monkeypatch.setattr(cuda, "compute_capability", lambda device: (7, 5))
    assert cuda.library() is None
    assert "compute capability 7.5, they need 8.0" in capsys.readouterr().err


def test_without_a_driver_one_line_says_so(card, monkeypatch, capsys):
    def no_driver(device):
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(cuda, "compute_capability", no_driver)
    assert cuda.library() is None and "libcuda.so.1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not cuda.compilers(), reason="no nvcc here")
def test_the_kernels_compile(tmp_path):
    nvcc = cuda.compilers()[0]
    version = built.output(nvcc, "--version")
    cuda._compile(nvcc, cuda.targets((8, 0))[0], tmp_path / "cuda.so")
    symbols = subprocess.run(["nm", "-D", tmp_path / "cuda.so"], capture_output=True, text=True, check=True).stdout
    assert " T Attention" in symbols, version
