"""What is set on devices that are not here, by stand-ins for mindspore's settings, and what is said of missing ones."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import pytest

from gm import ops
from gm.errors import UserError
from gm.ops import context, float32, plugin

ROOT = Path(__file__).resolve().parent.parent.parent
UNSUPPORTED = "Unsupported device target X. This process only supports one of the ['CPU'].\n\n"


class Recorder:
    """Stands in for a module of mindspore's settings: takes the names that the real one has, and notes the calls."""

    def __init__(self, device, calls, refuse=(), module="op_precision"):
        self.real = getattr(getattr(ms.device_context, device.lower()), module)
        self.calls, self.refuse = calls, refuse

    def __getattr__(self, name):
        assert name in self.real.function_status, f"mindspore has no setting {name}"

        def note(value):
            if name in self.refuse:
                raise RuntimeError(f"The '{name}' can not be set repeatedly.")
            self.calls.append((name, value))

        return note


def pretend(monkeypatch, device, chip="", refuse=()):
    """Make `device` the device in use; returns the list that calls go to, in order with set_context."""
    calls = []
    fake = {d.lower(): SimpleNamespace(op_precision=Recorder(d, calls, refuse)) for d in ("GPU", "Ascend")}
    fake["gpu"].op_tuning = Recorder("GPU", calls, module="op_tuning")
    monkeypatch.setattr(float32.ms, "device_context", SimpleNamespace(**fake))
    monkeypatch.setattr(float32, "ascend_chip", lambda: chip)
    monkeypatch.setattr(context, "device", lambda: device)
    monkeypatch.setattr(context.ms, "set_device", lambda target: calls.append(("set_device", target)))
    monkeypatch.setattr(context.ms, "set_context", lambda **keys: calls.append(("set_context", keys)))
    return calls


EXPECTED = {
    ("GPU", "", False): [("conv_allow_tf32", False), ("matmul_allow_tf32", False)],
    ("GPU", "", True): [("conv_allow_tf32", True), ("matmul_allow_tf32", True)],
    ("Ascend", "ascend910b", False): [
        ("precision_mode", "must_keep_origin_dtype"),
        ("conv_allow_hf32", False),
        ("matmul_allow_hf32", False),
    ],
    ("Ascend", "ascend910b", True): [
        ("precision_mode", "must_keep_origin_dtype"),
        ("conv_allow_hf32", True),
        ("matmul_allow_hf32", True),
    ],
    ("Ascend", "ascend910", False): [
        ("precision_mode", "must_keep_origin_dtype"),
        ("conv_allow_hf32", False),
        ("matmul_allow_hf32", False),
    ],
    ("Ascend", "ascend910", True): [("precision_mode", "allow_fp32_to_fp16")],
    ("CPU", "", False): [],
    ("CPU", "", True): [],
}


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(("case", "expected"), EXPECTED.items(), ids=lambda case: "-".join(map(str, case)))
def test_precision_is_set_between_the_device_and_anything_else(monkeypatch, case, expected, named, mode):
    device, chip, fast = case
    calls = pretend(monkeypatch, device, chip)
    context.set_device(device if named else None, mode, fast)
    first = [("set_device", device)] if named else []
    more = [("set_context", {"disable_format_transform": True}), ("conv_fprop_algo", "precomp_gemm")]
    assert calls == [*first, *expected, ("set_context", {"mode": mode}), *(more if device == "GPU" else [])]


def test_mindspore_has_the_setting_that_keeps_the_layout_and_only_on_gpus():
    """Under another name it would be ignored there, and float16 graphs would be silently wrong."""
    accepted = ms.context._check_target_specific_cfgs
    assert accepted("GPU", "disable_format_transform") and not accepted("CPU", "disable_format_transform")


def test_the_programs_ask_for_exact_float32_unless_told(monkeypatch):
    calls = pretend(monkeypatch, "GPU")
    monkeypatch.setattr(ops, "device", lambda: "GPU")
    before = {name: getattr(ops, name) for name in ops.table.OPERATIONS}
    try:
        ops.set_device("GPU")
    finally:
        ops.bind(before)
    assert ("conv_allow_tf32", False) in calls and ("matmul_allow_tf32", False) in calls


def test_a_second_choice_is_refused_with_the_reason(monkeypatch):
    pretend(monkeypatch, "Ascend", "ascend910b", refuse=("conv_allow_hf32",))
    with pytest.raises(UserError, match="fast_float32: conv_allow_hf32 cannot become False.*once in a process"):
        context.set_device("Ascend")


def test_what_is_in_force_is_told(monkeypatch):
    monkeypatch.setattr(float32, "ascend_chip", lambda: "ascend910b")
    assert "conv_allow_hf32 False" in ops.describe_float32("Ascend", False)
    assert "kept" in ops.describe_float32("GPU", False) and "narrower" in ops.describe_float32("GPU", True)
    assert ops.describe_float32("CPU", True) == "float32 is float32"


def fake_nvcc(folder, release):
    path = folder / "bin" / "nvcc"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\necho "Cuda compilation tools, release {release}, V{release}.1"\n')
    path.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("release", "chosen"),
    [("11.0", None), ("11.1", "11.1"), ("11.4", "11.1"), ("11.8", "11.6"), ("12.0", None), ("10.1", None)],
)
def test_the_plugin_for_a_cuda_release(release, chosen):
    """Observed with mindspore 2.8.0 and an nvcc that says so."""
    paths = [Path("libmindspore_gpu.so.11.1"), Path("libmindspore_gpu.so.11.6")]
    assert plugin.chosen_plugin(paths, release) == (chosen and Path(f"libmindspore_gpu.so.{chosen}"))


@pytest.mark.skipif(not plugin.plugins("GPU"), reason="this mindspore has no GPU plugins")
@pytest.mark.parametrize(
    ("home", "words"),
    [
        (None, ["CUDA_HOME is not set", "11.6"]),
        ("nowhere", ["nowhere/bin/nvcc does not run"]),
        ("12.4", ["nvcc says CUDA 12.4", "11.1, 11.6"]),
    ],
)
def test_a_gpu_that_cannot_be_used_is_explained(monkeypatch, tmp_path, home, words):
    monkeypatch.delenv("CUDA_HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("CUDA_HOME", str(fake_nvcc(tmp_path, home) if home[0].isdigit() else tmp_path / home))
    found = plugin.why_not("GPU", UNSUPPORTED)
    assert all(word in found for word in words), found


def test_libraries_that_are_missing_are_listed(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_HOME", str(fake_nvcc(tmp_path, "11.6")))
    monkeypatch.setattr(plugin, "plugins", lambda device: [tmp_path / "libmindspore_gpu.so.11.6"])
    said = "\tlibcudnn.so.8 => not found\n\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\tlibcublas.so.11 => not found\n"
    real = plugin._output
    monkeypatch.setattr(plugin, "_output", lambda *command: said if command[0] == "ldd" else real(*command))
    line = "Load dynamic library: libmindspore_gpu.so.11.6 failed. libnccl.so.2: cannot open shared object file"
    found = plugin.why_not("GPU", f"{UNSUPPORTED}{line}\n{line}")
    assert "libcudnn.so.8, libcublas.so.11;" in found and "libc.so.6" not in found
    assert found.count("libnccl.so.2") == 1


def test_ascend_without_cann_is_explained(monkeypatch):
    monkeypatch.delenv("ASCEND_OPP_PATH", raising=False)
    monkeypatch.setattr(plugin, "plugins", lambda device: [Path("libmindspore_ascend.so.2")])
    assert "set_env.sh" in plugin.why_not("Ascend", UNSUPPORTED)
    monkeypatch.setenv("ASCEND_OPP_PATH", "/usr/local/Ascend/opp")
    assert "no ASCEND_OPP_PATH" not in plugin.why_not("Ascend", UNSUPPORTED)


@pytest.mark.skipif(bool(list(Path("/dev").glob("nvidia[0-9]*"))), reason="there is a GPU here")
def test_the_program_says_why_without_a_traceback(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_HOME": str(tmp_path)}
    command = [sys.executable, "svd_tools/verify.py", "tests/goldens/scalars_golden.safetensors", "--device_target=GPU"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "device_target 'GPU' cannot be used here: " in done.stderr


def test_the_device_that_mindspore_chose_may_be_named_later():
    """In a process of its own: the runtime begins once."""
    code = (
        "import mindspore as ms\nfrom gm.ops import context\n"
        "context.set_device(None, 1)\nms.ops.ones((2,), ms.float32).asnumpy()\n"
        "context.set_device(context.device(), 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
