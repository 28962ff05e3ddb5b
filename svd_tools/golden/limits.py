"""How far a replayed recording may be off, for each precision, and which device computes in which: one table.

python -m svd_tools.golden.limits [--write]

Prints the table; --write puts it into docs/devices.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gm.errors import run_cli
from gm.ops.float32 import why_no_bfloat16
from gm.parser import Parser
from svd_tools import page

# {what is compared: what its limit is a part of}
WHAT = {
    "forward": "of the largest recorded value",
    "loss": "of the largest recorded value",
    "sampler": "of the largest recorded value, after some steps of the sampler",
    "gradient": "of the largest recorded value; of each recorded norm",
    "mix factor": "of the recorded gradient of a mix factor, a sum over all pixels that nearly cancels",
    "noise": "of the largest recorded norm of any gradient of the same loss: smaller gradients and errors are rounding",
    "preprocessing": "absolute; NumPy on the host in every precision",
    "bytes": "levels of 255 of a finished frame",
    "share of bytes": "of all bytes that differ: cutting off to whole numbers makes a step of 1 of any rounding",
}


class Precision(NamedTuple):
    """dtype, fast: what asks for it, verify.py's --dtype and --fast_float32. limits: {what is compared: limit}; what is
    not there is not judged. recordings: the kinds that it changes; the others are computed and judged in float32."""

    dtype: str
    fast: bool
    limits: dict[str, float]
    recordings: tuple[str, ...]
    reason: str


_HALF = ("unet", "clip", "pipeline")
PRECISIONS = {
    "float32": Precision(
        "float32",
        False,
        {
            "forward": 2e-5,
            "loss": 1e-5,
            "sampler": 5e-5,
            "gradient": 5e-5,
            "mix factor": 9e-4,
            "noise": 1e-6,
            "preprocessing": 1e-4,
            "bytes": 1,
            "share of bytes": 3e-3,
        },
        ("blocks", "unet", "vae", "clip", "scalars", "loss", "pipeline", "watermark"),
        "about ten times the difference between the original code in float32 and in float64, most of them suggested by "
        "those who made the recordings",
    ),
    "TF32": Precision(
        "float32",
        True,
        {
            "forward": 1.5e-2,
            "loss": 4e-2,
            "sampler": 2e-2,
            "gradient": 5e-2,
            "mix factor": 2.5e-1,
            "noise": 2e-5,
            "preprocessing": 1e-4,
            "bytes": 8,
        },
        ("blocks", "unet", "vae", "clip", "loss", "pipeline"),
        "11 digits of mantissa in convolutions and products; GPUs call it TF32, Ascend HF32. Eight times what "
        "`benchmarks/roundings.py` shows, which imitates the roundings on a CPU",
    ),
    "float16": Precision(
        "float16",
        False,
        {"forward": 2e-2, "sampler": 5e-2, "preprocessing": 1e-4, "bytes": 8},
        _HALF,
        "11 digits everywhere in UNet and CLIP. Eight times what the CPU shows, as no recording was made in float16",
    ),
    "bfloat16": Precision(
        "bfloat16",
        False,
        {"forward": 8e-2, "sampler": 2e-1, "preprocessing": 1e-4, "bytes": 32},
        _HALF,
        "8 digits there. Four times what `benchmarks/roundings.py` shows: with eight, too little that is wrong would "
        "stand out",
    ),
}


class Row(NamedTuple):
    """How a device computes in a precision, or why it does not."""

    device: str
    precision: str
    state: str


_NONE = "no such form: --fast_float32 changes nothing"
ROWS = (
    Row("CPU", "float32", "measured, x86-64; aarch64 emulated"),
    Row("CPU", "TF32", _NONE),
    Row("CPU", "float16", "measured, x86-64"),
    Row("CPU", "bfloat16", f"refused: {why_no_bfloat16('CPU')}"),
    Row("GPU", "float32", "measured on an H200 ([gpu.md](gpu.md)); TF32 is turned off, which would be the default"),
    Row("GPU", "TF32", "never judged by these limits on a GPU"),
    Row("GPU", "float16", "measured on an H200"),
    Row("GPU", "bfloat16", f"refused: {why_no_bfloat16('GPU')}"),
    Row("Ascend", "float32", "never run; HF32 is turned off, which would be the default, and so is float16 on a 910A"),
    Row("Ascend", "TF32", "never run; HF32, and on a 910A, which has none, float16 in convolutions and products"),
    Row("Ascend", "float16", "never run"),
    Row("Ascend", "bfloat16", "never run; 910B and later, refused on a 910A, which has none"),
)


def precision(device: str, dtype: str, fast: bool, kind: str) -> str:
    """Name of the precision in which recordings of a kind are computed and judged.

    Args:
        device: "CPU", "GPU" or "Ascend". dtype, fast: the options --dtype and --fast_float32. kind: of the recording.
    """
    fast = fast and device != "CPU"
    for name, values in PRECISIONS.items():
        if (values.dtype, values.fast) == (dtype, fast and dtype == "float32") and kind in values.recordings:
            return name
    return precision(device, "float32", fast, kind) if dtype != "float32" else "float32"


def table() -> str:
    """Markdown: the limits, their reasons, the devices."""
    lines = [f"| | {' | '.join(PRECISIONS)} | |", "|---" * (len(PRECISIONS) + 2) + "|"]
    for what, words in WHAT.items():
        limits = (precision.limits.get(what) for precision in PRECISIONS.values())
        lines.append(f"| {what} | {' | '.join('' if v is None else f'{v:g}' for v in limits)} | {words} |")
    lines += ["", "| precision | asked for by | changes the recordings | its limits |", "|---|---|---|---|"]
    for name, values in PRECISIONS.items():
        asked = f"`--dtype={values.dtype}{' --fast_float32' if values.fast else ''}`"
        lines.append(f"| {name} | {asked} | {', '.join(values.recordings)} | {values.reason} |")
    lines += ["", "| device | precision | state |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {row.device} | {row.precision} | {row.state} |" for row in ROWS)])


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/devices.md")
    options = parser.parse_args(argv)
    print(table())
    if options.write:
        page.write("limits", table())
    return 0


if __name__ == "__main__":
    run_cli(main)
