"""Where the time of one UNet call goes, by operation of gm.ops and shape.

python benchmarks/profile_ops.py --model_channels=64 --frames=4 --size=32

One call in PyNative records every operation with its shapes; then each of them is compiled and timed alone, in graph
mode, as often as it takes for a median. The sum is compared with a whole call: the rest is what graph mode does between
the operations (additions, concatenations) or saves by fusing them. With --gradients=true all of it is forward and
backward together.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from mindspore import Tensor, nn
from mindspore.ops import GradOperation

from gm import ops
from gm.errors import run_cli
from gm.model import build_component, load_model_config
from gm.networks.init import initialize
from gm.ops.table import OPERATIONS

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "svd.yaml"


class Call(nn.Cell):
    """An operation with the arguments that are no tensors filled in; plan: (is a tensor, constant) of each argument."""

    def __init__(self, function, plan):
        super().__init__()
        self.function, self.plan = function, plan

    def construct(self, *tensors):
        arguments, used = (), 0
        for is_tensor, constant in self.plan:
            if is_tensor:
                arguments = arguments + (tensors[used],)
                used = used + 1
            else:
                arguments = arguments + (constant,)
        return self.function(*arguments)


class Called(nn.Cell):
    """The UNet for videos of t frames."""

    def __init__(self, unet, t):
        super().__init__()
        self.unet, self.t = unet, t

    def construct(self, *inputs):
        return self.unet(*inputs, self.t)[0]


class Backward(nn.Cell):
    """A cell's gradients with respect to all its inputs, given those of its output."""

    def __init__(self, cell):
        super().__init__()
        self.gradients = GradOperation(get_all=True, sens_param=True)(cell)

    def construct(self, sensitivity, *tensors):
        return self.gradients(*tensors, sensitivity)


def describe(arguments):
    """A hashable form of an operation's arguments: shapes of tensors, values of all else."""
    return tuple(tuple(a.shape) if isinstance(a, Tensor) else ("constant", a) for a in arguments)


def record(run):
    """{(operation, described arguments): count} of the operations that `run()` calls, the outermost ones only."""
    counts, depth = Counter(), [0]

    def watched(name, function):
        def call(*arguments, **keywords):
            if depth[0] == 0:
                counts[name, describe((*arguments, *keywords.values()))] += 1
            depth[0] += 1
            try:
                return function(*arguments, **keywords)
            finally:
                depth[0] -= 1

        return call

    originals = {name: getattr(ops, name) for name in OPERATIONS}
    ops.bind({name: watched(name, function) for name, function in originals.items()})
    try:
        run()
    finally:
        ops.bind(originals)
    return counts


def measure(run, repeats):
    """Median seconds of `run()` after a first call that compiles."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def with_gradients(cell, tensors):
    """Function that runs a cell forward and backward."""
    sensitivity = Tensor(np.ones(cell(*tensors).shape, np.float32))
    backward = Backward(cell)
    return lambda: [gradient.asnumpy() for gradient in backward(sensitivity, *tensors)]


def time_operation(name, arguments, repeats, gradients):
    """Median seconds of one operation in graph mode, on random numbers."""
    random = np.random.default_rng(0)
    plan = tuple((not (a and a[0] == "constant"), a[1] if a and a[0] == "constant" else None) for a in arguments)
    tensors = [
        Tensor(random.standard_normal(a).astype(np.float32)) for a in arguments if not (a and a[0] == "constant")
    ]
    cell = Call(getattr(ops, name), plan)
    return measure(with_gradients(cell, tensors) if gradients else lambda: cell(*tensors).asnumpy(), repeats)


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model_channels", type=int, default=64, help="320 is SVD")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--size", type=int, default=32, help="height and width of the latents")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--gradients", type=bool, default=False, help="forward and backward")
    parser.add_argument("--rows", type=int, default=25, help="of the table")
    options = parser.parse_args(argv)
    config = load_model_config(CONFIG, [f"model.unet.model_channels={options.model_channels}"])
    ops.set_device("CPU", ops.PYNATIVE_MODE)
    unet = initialize(build_component(config, "unet"), 0)
    random, n, model = np.random.default_rng(0), options.frames, config.model.unet
    shapes = (
        (n, model.in_channels, options.size, options.size),
        (n,),
        (n, 1, model.context_dim),
        (n, model.adm_in_channels),
    )
    inputs = [Tensor(random.standard_normal(shape).astype(np.float32)) for shape in shapes]
    counts = record(lambda: unet(*inputs, n)[0].asnumpy())
    ops.set_device("CPU", ops.GRAPH_MODE)
    network = Called(unet, n)
    whole = measure(
        with_gradients(network, inputs) if options.gradients else lambda: network(*inputs).asnumpy(), options.repeats
    )
    times = {key: count * time_operation(*key, options.repeats, options.gradients) for key, count in counts.items()}
    by_name = Counter()
    for (name, _), seconds in times.items():
        by_name[name] += seconds
    print(f"whole call {whole:.3f} s; sum of the operations alone {sum(times.values()):.3f} s\n")
    print("| operation | seconds | share of the call |\n|---|---|---|")
    for name, seconds in by_name.most_common():
        print(f"| {name} | {seconds:.4f} | {seconds / whole:.1%} |")
    print("\n| operation | arguments | calls | seconds |\n|---|---|---|---|")
    for key, seconds in sorted(times.items(), key=lambda item: -item[1])[: options.rows]:
        shown = " ".join(str(a[1]) if a and a[0] == "constant" else "x".join(map(str, a)) for a in key[1])
        print(f"| {key[0]} | {shown} | {counts[key]} | {seconds:.4f} |")


if __name__ == "__main__":
    run_cli(main)
