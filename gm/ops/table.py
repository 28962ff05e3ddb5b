"""Which form of an operation runs where: one table, printable with `python -m gm.ops`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Callable, NamedTuple

from gm.errors import UserError
from gm.ops import ascend, cpu, fused, gpu, reference

OPERATIONS = (
    "transpose",
    "linear",
    "add_linear",
    "linear_to_tokens",
    "add_linear_to_channels",
    "add_to_tokens",
    "mix",
    "affine_per_channel",
    "conv2d",
    "temporal_conv",
    "group_norm",
    "group_norm_silu",
    "layer_norm",
    "log",
    "silu",
    "gelu",
    "feed_forward",
    "attention",
    "attention_over_pixels",
    "upsample_nearest",
    "square_sum",
    "adamw",
)
_WIDTH = max(map(len, OPERATIONS)) + 1  # of the first column of `describe`


class Row(NamedTuple):
    """`function` replaces the reference form of its namesake on `device`, for versions first <= v < last.

    compiled: it needs the kernels of `gm.ops.native` or, on a GPU, `gm.ops.cuda`. not_on: chips
    (`gm.ops.float32.ascend_chip`) that lack it. asked: it counts only for those who ask for it by name, in the
    environment's SVD_FORMS. Of several rows that fit, the last one counts.
    """

    device: str
    first: tuple[int, ...]
    last: tuple[int, ...]
    function: Callable
    reason: str
    compiled: bool = False
    not_on: tuple[str, ...] = ()
    asked: bool = False

    def fits(self, device: str, version: tuple[int, ...], compiled: bool, chip: str, forms: Collection[str]) -> bool:
        if self.device != device or not self.first <= version < self.last or chip in self.not_on:
            return False
        return (compiled or not self.compiled) and (self.function.__name__ in forms or not self.asked)


_NEVER = "Never run by us for want of an Ascend"


ROWS = (
    Row(
        "CPU",
        (2, 7),
        (99,),
        cpu.transpose,
        "14x32x192x320: 29 ms instead of 63, and without the 8 bytes for each element that the Transpose kernel keeps",
    ),
    Row(
        "CPU",
        (2, 7),
        (99,),
        fused.transpose,
        "14x320x1024 by frames: 1.1 ms instead of 1.5, 256x4x4: 7 us instead of 12; forward and backward twice as fast",
        True,
    ),
    Row("CPU", (2, 7), (99,), cpu.linear_to_tokens, "8x320x1024: 18 ms instead of 41, no transposition"),
    Row("CPU", (2, 7), (99,), cpu.add_linear_to_channels, "8x1024x320: 13 ms instead of 21, no transposition"),
    Row(
        "CPU",
        (2, 7),
        (99,),
        cpu.add_to_tokens,
        "14x32x192x320: 34 ms instead of 48, and without the 16 bytes for each element that a broadcasting Add keeps",
    ),
    Row("CPU", (2, 7), (99,), cpu.affine_per_channel, "without the 16 bytes for each element, as above"),
    Row("CPU", (2, 7), (99,), cpu.log, "on a few values the Log kernel changes its last bit between launches (2.8.0)"),
    Row(
        "CPU",
        (2, 7),
        (99,),
        cpu.layer_norm,
        "16x1024x320: 34 ms instead of 65 in graph mode, 32 instead of 180 in PyNative",
    ),
    Row(
        "CPU",
        (2, 7),
        (99,),
        cpu.group_norm,
        "8x64x64x64 forward and backward: 9 to 16 ms instead of 22 (without scale and shift) and 63 (by LayerNorm)",
    ),
    Row("CPU", (2, 7), (99,), cpu.group_norm_silu, "by the norm of the row above"),
    Row(
        "CPU",
        (2, 7),
        (99,),
        fused.conv2d,
        "4x128x16x16: 1.4 to 2.3 times as fast, 4x320x32x32: 1.2, and the bias with it; no matrix of the pixels",
        True,
    ),
    Row(
        "CPU",
        (2, 7),
        (99,),
        fused.temporal_conv,
        "1x64x4x1024: 1.9 times as fast, and since by tiles of frames, 1.7 to 3 times that with AVX2",
        True,
    ),
    Row(
        "CPU",
        (2, 7),
        (99,),
        fused.add_to_tokens,
        "14x1024x320: 2.6 ms instead of 9.0, forward and backward 6.8 instead of 33",
        True,
    ),
    Row(
        "CPU",
        (2, 7),
        (99,),
        fused.add_linear,
        "14336x320 to 320: 19.7 ms instead of 22.4, forward and backward 45 instead of 56",
        True,
    ),
    Row(
        "CPU",
        (2, 7),
        (99,),
        fused.linear_to_tokens,
        "4x1280x64: 9 ms instead of 17, 14x1280x144: 49 instead of 118, no copy of the weights for each frame",
        True,
    ),
    Row("CPU", (2, 7), (99,), fused.add_linear_to_channels, "4x64x1280: 7 ms instead of 12, see the row above", True),
    Row(
        "CPU",
        (2, 7),
        (99,),
        fused.mix,
        "14x64x32x32: 1.0 ms instead of 2.0, forward and backward 2.5 instead of 9",
        True,
    ),
    Row(
        "CPU",
        (2, 7),
        (99,),
        fused.upsample_nearest,
        "14x128x16x16: 1.1 ms instead of 6.7, backward 2 instead of 20",
        True,
    ),
    Row(
        "CPU",
        (2, 7),
        (99,),
        fused.feed_forward,
        "9216x320: 1.1 times as fast as products and GEGLU apart, 896x256: 1.3, 14336x64: 1.4; forward and backward by "
        "plain operators GEGLU alone takes three times as long; to 512 channels nothing wide is kept but in training",
        True,
    ),
    Row("CPU", (2, 7), (99,), fused.gelu, "1x257x5120: 1.4 ms instead of 15", True),
    Row("CPU", (2, 7), (99,), fused.silu, "14x64x32x32, forward and backward: 1.0 ms instead of 3.3", True),
    Row("CPU", (2, 7), (99,), fused.layer_norm, "4x1024x320, forward and backward: 1.6 ms instead of 37", True),
    Row("CPU", (2, 7), (99,), fused.group_norm, "4x320x32x32, forward and backward: 3.1 ms instead of 11", True),
    Row(
        "CPU",
        (2, 7),
        (99,),
        fused.group_norm_silu,
        "1x320x4x1024, forward and backward: 3.4 ms instead of 17; with a sum, 14x64x32x32: 2.5 instead of 3.6",
        True,
    ),
    Row("CPU", (2, 7), (99,), cpu.attention, "the same as transpose, which it uses to part and join the heads"),
    Row(
        "CPU",
        (2, 7),
        (99,),
        fused.attention,
        "4 frames of 1024 pixels, 320 channels, forward and backward: 102 ms instead of 314, no scores held",
        True,
    ),
    Row("CPU", (2, 7), (99,), cpu.attention_over_pixels, "no transpositions, and so none of their indices"),
    Row(
        "CPU",
        (2, 7),
        (99,),
        fused.attention_over_pixels,
        "4x512x1024: 63 ms instead of 225, and no scores in memory",
        True,
    ),
    Row("CPU", (2, 7), (99,), fused.square_sum, "30 million numbers in 738 tensors: 14 ms instead of 44", True),
    Row("CPU", (2, 7), (99,), fused.adamw, "the same: 49 ms instead of 205, compiled in a third of the time", True),
    Row(
        "GPU",
        (2, 7),
        (99,),
        gpu.attention,
        "14 frames of 9216 pixels, 320 channels, float16, H200: 6.4 ms instead of 79, no scores in memory; over time "
        "1.0 ms instead of 2.8",
        True,
    ),
    Row(
        "GPU",
        (2, 7),
        (99,),
        gpu.feed_forward,
        "its GEGLU, 14x9216x320 to 1280, float16, H200: 1.3 ms instead of 9.3",
        True,
    ),
    Row("GPU", (2, 7), (99,), gpu.layer_norm, "14x9216x320, float16, H200: 0.7 ms instead of 4.7", True),
    Row("GPU", (2, 7), (99,), gpu.group_norm, "by the kernel of the row below", True),
    Row("GPU", (2, 7), (99,), gpu.group_norm_silu, "14x320x72x128, float16, H200: 0.9 ms instead of 5.2", True),
    Row("GPU", (2, 7), (99,), gpu.silu, "14x320x72x128, float16, H200: 0.5 ms instead of 0.8", True),
    Row(
        "GPU",
        (2, 7),
        (99,),
        gpu.add_to_tokens,
        "with the next two and the sum before a norm: UNet of 14 frames at 576x1024, H200, PyNative: 0.44 s, not 0.49",
        True,
    ),
    Row("GPU", (2, 7), (99,), gpu.mix, "see the row of add_to_tokens", True),
    Row("GPU", (2, 7), (99,), gpu.upsample_nearest, "see the row of add_to_tokens", True),
    Row(
        "Ascend",
        (2, 7),
        (99,),
        ascend.attention,
        "flash_attention_score never holds the scores; float16 and bfloat16, float32 keeps the reference form. "
        f"{_NEVER}: prove it on yours with svd_tools/verify.py --dtype=float16",
        not_on=("ascend910",),
    ),
    Row("Ascend", (2, 7), (99,), ascend.silu, f"one operator instead of two. {_NEVER}", asked=True),
    Row("Ascend", (2, 7), (99,), ascend.layer_norm, f"one operator instead of eight. {_NEVER}", asked=True),
    Row("Ascend", (2, 7), (99,), ascend.group_norm, f"one operator instead of eight. {_NEVER}", asked=True),
    Row("Ascend", (2, 7), (99,), ascend.group_norm_silu, f"two operators instead of ten. {_NEVER}", asked=True),
)


def asked_forms(text: str) -> tuple[str, ...]:
    """The operations in SVD_FORMS such as "silu,layer_norm". UserError for one that no row waits for."""
    forms = tuple(name for name in text.replace(" ", "").split(",") if name)
    known = sorted({row.function.__name__ for row in ROWS if row.asked})
    wrong = [name for name in forms if name not in known]
    if wrong:
        raise UserError(f"SVD_FORMS in the environment names {', '.join(wrong)}: choose from {', '.join(known)}")
    return forms


def choose(
    device: str,
    version: tuple[int, ...],
    compiled: bool = False,
    chip: str = "",
    forms: Collection[str] = (),
) -> dict[str, Callable]:
    """{operation: function} for a device ("CPU", "GPU", "Ascend") and a mindspore version such as (2, 8).

    compiled: the kernels of `gm.ops.native` are there. chip: of an Ascend. forms: what `asked_forms` returns.
    """
    chosen = {name: getattr(reference, name) for name in OPERATIONS}
    fitting = [row for row in ROWS if row.fits(device, version, compiled, chip, forms)]
    chosen.update({row.function.__name__: row.function for row in fitting})
    return chosen


def describe(device: str, version: tuple[int, ...], compiled: bool, chip: str = "", forms: Collection[str] = ()) -> str:
    """The table as text: what runs on this device and why, then every row that does not apply here."""
    lines = [f"device {device}, mindspore {'.'.join(map(str, version))}"]
    reasons = {row.function: row.reason for row in ROWS}
    for name, function in choose(device, version, compiled, chip, forms).items():
        module = function.__module__.rsplit(".", 1)[1]
        lines.append(f"  {name:{_WIDTH}s}{module:11s}{reasons.get(function, 'plain operators')}")
    others = [row for row in ROWS if not row.fits(device, version, compiled, chip, forms)]
    if others:
        lines.append("rows for other devices and versions")
    for row in others:
        span = f"{'.'.join(map(str, row.first))} <= version < {'.'.join(map(str, row.last))}"
        asked = f", with SVD_FORMS={row.function.__name__}" if row.asked else ""
        lines.append(f"  {row.function.__name__:{_WIDTH}s}{row.device}, {span}{asked}: {row.reason}")
    return "\n".join(lines)
