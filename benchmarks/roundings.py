"""What narrower numbers cost, without a device that has them: the recordings replayed with their roundings imitated.

python benchmarks/roundings.py [--precisions TF32 float16 bfloat16]

Runs on a CPU, in PyNative, in the reference forms (what GPU and Ascend run). TF32: what goes into convolutions and
products, forward and backward, is rounded to 11 digits of mantissa first, as GPUs do with TF32 and Ascend with HF32.
bfloat16: weights, and what goes into every operation of UNet and CLIP and comes out of it, is rounded to 8 digits, with
gradients left out; only sums of two activations are not. float16 is the CPU's own, to compare. Prints the largest error
of each kind of stage beside its limit (svd_tools/golden/limits.py).
"""

from __future__ import annotations

import functools
import importlib

import mindspore as ms
from jsonargparse import ArgumentParser
from mindspore import nn
from mindspore import ops as plain

from gm import ops, places
from gm.console import progress_bar
from gm.errors import run_cli
from gm.ops import reference
from gm.precision import BFLOAT16, parameter_dtype
from svd_tools import verify
from svd_tools.golden import clip, unet
from svd_tools.golden.limits import PRECISIONS
from svd_tools.golden.reader import Golden
from svd_tools.golden.report import Report

NARROW = ("TF32", "float16", "bfloat16")
_FLOAT32_DIGITS, _TF32_DIGITS, _BFLOAT16_DIGITS = 24, 11, 8


def rounded(x, digits):
    """A float32 tensor with its mantissas rounded to that many binary digits (Veltkamp's way)."""
    y = x * (2.0 ** (_FLOAT32_DIGITS - digits) + 1)
    return y - (y - x)


class RoundedInput(nn.Cell):
    """Of a product; the gradient passes as it is."""

    def construct(self, x):
        return rounded(x, _TF32_DIGITS)

    def bprop(self, x, out, dout):
        return (dout,)


class RoundedGradient(nn.Cell):
    """Of what comes back to a product."""

    def construct(self, x):
        return x

    def bprop(self, x, out, dout):
        return (rounded(dout, _TF32_DIGITS),)


def _tf32(product):
    into, back = RoundedInput(), RoundedGradient()
    return lambda x, y: back(product(into(x), into(y)))


class Products:
    """mindspore.ops as `gm.ops.reference` sees it, with other convolutions and products."""

    def __init__(self, form):
        self.form = form
        self.bmm = form(plain.bmm)

    def Conv2D(self, *arguments):
        return self.form(plain.Conv2D(*arguments))

    def __getattr__(self, name):
        return getattr(plain, name)


def _use_products(form):
    reference.ops = Products(form)
    reference._matmul_transposed = form(plain.MatMul(transpose_b=True))
    reference._bmm_transposed = form(plain.BatchMatMul(transpose_b=True))


class Bfloat16:
    """Rounds while one of its cells is at work: the VAE stays float32 at O2."""

    def __init__(self):
        self.on = False

    def round(self, x):
        return rounded(x, _BFLOAT16_DIGITS) if self.on and isinstance(x, ms.Tensor) else x

    def operation(self, function):
        """One of the table: activations come first."""
        return functools.wraps(function)(lambda x, *more, **named: self.round(function(self.round(x), *more, **named)))

    def product(self, function):
        return lambda x, y: self.round(function(self.round(x), self.round(y)))

    def built(self, build, prefix):
        """A function that builds a network, so that the network is this precision's."""

        def make(config, weights, amp_level="O0"):
            cell = build(config, weights, "O0")
            for name, p in cell.parameters_and_names():
                if parameter_dtype(prefix + name, BFLOAT16) == ms.bfloat16:
                    p.set_data(rounded(p.value(), _BFLOAT16_DIGITS))
            cell.register_forward_pre_hook(lambda cell, inputs: self._turn(True))
            cell.register_forward_hook(lambda cell, inputs, output: self._turn(False))
            return cell

        return make

    def _turn(self, on):
        self.on = on


def imitate(precision):
    """Put the roundings into the reference forms, and bind these. Returns the amp_level to replay at."""
    ops.set_device("CPU", ops.PYNATIVE_MODE)
    chosen = {name: getattr(reference, name) for name in ops.table.OPERATIONS}
    _use_products(_tf32 if precision == "TF32" else lambda product: product)
    if precision == "bfloat16":
        numbers = Bfloat16()
        _use_products(numbers.product)
        chosen = {name: numbers.operation(function) for name, function in chosen.items()}
        for module in (unet, clip):
            module.build = numbers.built(module.build, module.PREFIX)
    ops.bind(chosen)
    return "O0" if precision == "TF32" else "O2"


def largest(rows):
    """Of each kind of stage the row that is nearest to its limit."""
    found = {}
    for row in rows:
        kind = row.stage.split("/")[0], row.judged, "mix_factor" in row.stage
        found[kind] = max(found.get(kind, row), row, key=lambda row: row.value / row.limit)
    return found.values()


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--precisions", nargs="+", choices=NARROW, default=list(NARROW), help="which ones")
    parser.add_argument("--recordings", nargs="+", choices=verify.KINDS, default=list(verify.KINDS), help="which ones")
    options = parser.parse_args(argv)
    builders = {module: module.build for module in (unet, clip)}
    for precision in options.precisions:
        for module, build in builders.items():
            module.build = build
        amp_level = imitate(precision)
        reached = [kind for kind in options.recordings if kind in PRECISIONS[precision].recordings]
        with progress_bar(len(reached), precision, "recording") as bar:
            for kind in reached:
                golden = Golden(places.GOLDENS / f"{kind}_golden.safetensors")
                report = Report(golden, precision)
                importlib.import_module(f"svd_tools.golden.{kind}").replay(golden, report, amp_level)
                report.close()
                for row in largest(report.rows):
                    bar.write(f"{precision:9s} {row.value:.1e} of {row.limit:.1e} {row.judged:9s} {kind}: {row.stage}")
                bar.update()
    return 0


if __name__ == "__main__":
    run_cli(main)
