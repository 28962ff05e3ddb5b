"""Compare the networks and the maths with tensors recorded from the original code, stage by stage.

python svd_tools/verify.py [FILES...] [--mode 0|1] [--device_target CPU|GPU|Ascend] [--dtype float32|float16|bfloat16]

Without FILES it replays those in tests/goldens. One row for each recorded output, activation and gradient: largest
error, error relative to the largest recorded value (or the share of values that differ), limit. The limits depend on
the recording and on the precision alone (svd_tools/golden/limits.py). The exit status is 1 if any row fails.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

import argparse
import importlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gm import options, places
from gm.errors import UserError, run_cli
from gm.inference_options import add_option
from gm.parser import Paragraphs

if TYPE_CHECKING:
    from svd_tools.golden.report import Report

KINDS = ("blocks", "unet", "vae", "clip", "scalars", "loss", "pipeline", "watermark")
DTYPES = ("float32", *options.DTYPES)


def replay(path: str | Path, dtype: str, fast_float32: bool = False) -> Report:
    """The `Report` of one golden file, at the device and mode already set. UserError: the device lacks the dtype."""
    from gm import ops
    from gm.precision import level
    from svd_tools.golden.limits import precision
    from svd_tools.golden.reader import Golden
    from svd_tools.golden.report import Report

    golden = Golden(path)
    if golden.kind not in KINDS:
        raise UserError(f"golden file {path}: unknown kind {golden.kind!r}, known are {', '.join(KINDS)}")
    amp_level = "O0" if dtype == "float32" else level("O2", dtype)
    report = Report(golden, precision(ops.device(), dtype, fast_float32, golden.kind))
    module = importlib.import_module(f"svd_tools.golden.{golden.kind}")
    try:
        module.replay(golden, report, amp_level)
    except KeyError as error:
        raise UserError(f"golden file {path}: it holds no entry {error}") from error
    report.close()
    return report


def print_report(path: str | Path, report: Report, seconds: float) -> int:
    """The rows as a table, failed ones marked."""
    failed = sum(not row.passed for row in report.rows)
    width = max(len(row.stage) for row in report.rows)
    print(f"\n{path}: {len(report.rows)} stages in {seconds:.0f} s, {failed} failed")
    print(f"  {'stage':{width}s}  max |error|  relative   limit")
    for row in report.rows:
        verdict = "pass" if row.passed else "FAIL"
        limit = f"{row.limit:.1e} {row.judged}"
        second = row.share if row.judged == "share" else row.relative
        print(f"  {row.stage:{width}s}  {row.max_error:.2e}     {second:.2e}   {limit:17s}  {verdict}")
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Paragraphs)
    parser.add_argument("files", nargs="*", help="golden files: .safetensors with .json beside; default: tests/goldens")
    add_option(parser, "mode")
    add_option(parser, "device_target")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="not float32: UNet and CLIP as with --amp_level=O2, with wider limits and without gradients (float32)",
    )
    parser.add_argument("--fast_float32", action="store_true", help="as in image_to_video.py, with wider limits")
    options = parser.parse_args(argv)

    files = [Path(name) for name in options.files] or [places.GOLDENS / f"{kind}_golden.safetensors" for kind in KINDS]
    from gm import ops

    ops.set_device(options.device_target, options.mode, options.fast_float32)
    print(f"{ops.device()}: {ops.describe_float32(ops.device(), options.fast_float32)}")
    failed = stages = 0
    for path in files:
        start = time.monotonic()
        report = replay(path, options.dtype, options.fast_float32)
        failed += print_report(path, report, time.monotonic() - start)
        stages += len(report.rows)
    mode = "PyNative" if options.mode else "graph mode"
    dtype = options.dtype + (", --fast_float32" if options.fast_float32 else "")
    print(f"\n{stages} stages, {failed} failed: {ops.device()}, {mode}, {dtype}")
    return 1 if failed else 0


if __name__ == "__main__":
    run_cli(main)
