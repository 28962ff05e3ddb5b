"""What a device computes where the program says float32: set here, never left to mindspore's defaults.

By the documentation in mindspore's own package (mindspore/device_context, 2.8.0), convolutions are TF32 on a GPU and
HF32 on Ascend unless told otherwise (10 bits of mantissa instead of 23), and Atlas training cards (910A) turn every
float32 operator that can be float16 into that ("force_fp16"). Each setting counts once in a process, before anything
runs.
"""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms

from gm.errors import UserError

_KEPT: dict[str, str | bool] = {"precision_mode": "must_keep_origin_dtype"}
EXACT: dict[str, dict[str, str | bool]] = {
    "GPU": {"conv_allow_tf32": False, "matmul_allow_tf32": False},
    "Ascend": {**_KEPT, "conv_allow_hf32": False, "matmul_allow_hf32": False},
}
# About 5e-4 of the largest value instead of 1e-6: what 10 bits of mantissa are.
FAST: dict[str, dict[str, str | bool]] = {
    "GPU": {"conv_allow_tf32": True, "matmul_allow_tf32": True},
    "Ascend": {**_KEPT, "conv_allow_hf32": True, "matmul_allow_hf32": True},
}
# The 910A has no HF32, and its convolutions take float16 alone (CANN's list of operators, Conv2D, Atlas training
# series), so that a float32 one kept as it is may be refused there. This mode narrows convolutions and products.
FAST_910A: dict[str, str | bool] = {"precision_mode": "allow_fp32_to_fp16"}


def settings(device: str, fast: bool, soc: str = "") -> Mapping[str, str | bool]:
    """{function of mindspore's op_precision: its value} for a device; nothing on a CPU.

    soc: mindspore's name of the Ascend chip, see `ascend_chip`.
    """
    if fast and device == "Ascend" and soc == "ascend910":
        return FAST_910A
    return (FAST if fast else EXACT).get(device, {})


def set_float32(device: str, fast: bool) -> None:
    """Say what float32 is on this device; after it was chosen and before anything runs.

    Args:
        device: "CPU", "GPU" or "Ascend".
        fast: allow the narrower forms.

    Raises:
        UserError: it was set otherwise before, in this process.
    """
    chosen = settings(device, fast, ascend_chip() if device == "Ascend" else "")
    if not chosen:
        return
    precision = getattr(ms.device_context, device.lower()).op_precision
    for name, value in chosen.items():
        try:
            getattr(precision, name)(value)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"fast_float32: {name} cannot become {value!r}: {reason} It counts once in a process, "
                "before anything runs"
            ) from None


def describe_float32(device: str, fast: bool) -> str:
    """One line on what float32 is, for people."""
    chosen = settings(device, fast, ascend_chip() if device == "Ascend" else "")
    if not chosen:
        return "float32 is float32"
    what = "float32 may be narrower in convolutions and products" if fast else "float32 is kept"
    return f"{what}: {', '.join(f'{name} {value}' for name, value in chosen.items())}"


def why_no_bfloat16(device: str) -> str | None:
    """Why bfloat16 cannot be computed on a device ("CPU", "GPU", "Ascend"), or None where it can."""
    if device == "Ascend":
        return "the Ascend 910A has no bfloat16" if ascend_chip() == "ascend910" else None
    return f"mindspore has no bfloat16 convolutions and products on {device}s"


def ascend_chip() -> str:
    """mindspore's name of the Ascend chip: "ascend910" (910A), "ascend910b", "ascend910_93" …; "" where there is none.

    mindspore has no public function for it; its own amp and nn modules ask the same way.
    """
    from mindspore._c_expression import MSContext

    return MSContext.get_instance().get_ascend_soc_version()
