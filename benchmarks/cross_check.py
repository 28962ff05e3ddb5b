"""Compare the full-size networks with PyTorch's (diffusers, transformers) on the same weights and inputs, and time it.

python benchmarks/make_random_checkpoint.py --out build/random.safetensors
python3 -m venv build/torch && build/torch/bin/pip install -r benchmarks/requirements.txt
python benchmarks/cross_check.py --checkpoint=build/random.safetensors --torch_python=build/torch/bin/python

Every part (unet, vae, clip) runs twice, once on either side, each time in a process of its own, so that no process
holds two models: 14.1 GB at most (the UNet here, from a float16 file). Inputs and outputs pass through NumPy files in a
temporary folder; benchmarks/torch_models.py builds PyTorch's networks and maps the weights' names.

One difference is removed first: diffusers has the epsilon 1e-6 in most norms of the UNet's ResBlocks where the
original, and so this project, has 1e-5. The script sets 1e-5 on the PyTorch side and prints in how many norms.

Prints a Markdown table; exit status 1 if an error is larger than LIMIT.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from report import check_count, check_known

from gm.console import peak_memory, timed, versions
from gm.errors import UserError, run_cli

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "svd.yaml"
LIMIT = 5e-5  # of max |difference| / max |PyTorch's value|
FRAMES = 4


def make_unet_inputs(random):
    """Two videos with different noise levels, contexts and numbers. With one context token q and k have no part."""
    inputs = {}
    for case, tokens, size in (("unet 32x32 1 token", 1, 32), ("unet 16x16 3 tokens", 3, 16)):
        inputs[f"{case}/x"] = random.standard_normal((2, FRAMES, 8, size, size), np.float32)
        inputs[f"{case}/c_noise"] = np.array([1.6, -0.7], np.float32)
        inputs[f"{case}/context"] = random.standard_normal((2, tokens, 1024), np.float32)
        inputs[f"{case}/ids"] = np.array([[6, 127, 0.02], [11, 40, 0.3]], np.float32)
    return inputs


def make_vae_inputs(random):
    """Latents of one video and a picture."""
    z = random.standard_normal((FRAMES, 4, 32, 32), np.float32)
    return {"z": z, "pixels": random.uniform(-1, 1, (1, 3, 256, 256)).astype(np.float32)}


def make_clip_inputs(random):
    """A picture of SVD's size with all frequencies, and what CLIP sees of it."""
    from gm.diffusion.clip_preprocess import CLIP_MEAN, CLIP_STD, preprocess

    photo = random.uniform(-1, 1, (1, 3, 576, 1024)).astype(np.float32)
    mean, deviation = np.array(CLIP_MEAN, np.float32), np.array(CLIP_STD, np.float32)
    return {"photo": photo, "seen": preprocess(photo), "mean": mean, "deviation": deviation}


def repeated(run, count):
    """(result of `run`, seconds of each of `count` calls)."""
    seconds = {}
    for i in range(count):
        with timed(seconds, i):
            result = run()
    return result, list(seconds.values())


def run_unet(weights, inputs, calls):
    """Outputs and seconds of every case."""
    from mindspore import Tensor

    from gm.diffusion.conditioning import vector_embedding

    unet = weights.load("unet").unet
    outputs, seconds = {}, {}
    for case in sorted({name.split("/")[0] for name in inputs}):
        x, c_noise, context, ids = (inputs[f"{case}/{name}"] for name in ("x", "c_noise", "context", "ids"))
        vector = vector_embedding(*ids.T, 256)
        frames = [Tensor(np.repeat(a, FRAMES, 0)) for a in (c_noise, context, vector)]
        x = Tensor(x.reshape(-1, *x.shape[2:]))
        outputs[case], seconds[case] = repeated(lambda: unet(x, *frames, FRAMES)[0].asnumpy(), calls)  # noqa: B023
    return outputs, seconds


def run_vae(weights, inputs, calls):
    """The temporal decoder and the conditioner's encoder with its quant_conv."""
    from mindspore import Tensor

    decoder, encoder = weights.load("decoder"), weights.load("condition_encoder")
    z, pixels = Tensor(inputs["z"]), Tensor(inputs["pixels"])
    decoded, decode_seconds = repeated(lambda: decoder(z, FRAMES).asnumpy(), calls)
    moments, encode_seconds = repeated(lambda: encoder(pixels).asnumpy(), calls)
    seconds = {"decode": decode_seconds, "encode": encode_seconds}
    return {"decode": decoded, "encode": moments}, seconds


def run_clip(weights, inputs, calls):
    """The image tower; the preprocessing was done when the inputs were made."""
    from mindspore import Tensor

    tower, seen = weights.load("clip"), Tensor(inputs["seen"])
    embedding, seconds = repeated(lambda: tower(seen).asnumpy(), calls)
    return {"embedding": embedding, "preprocessing": inputs["seen"]}, {"embedding": seconds}


PARTS = {"unet": (make_unet_inputs, run_unet), "vae": (make_vae_inputs, run_vae), "clip": (make_clip_inputs, run_clip)}


def our_side(part, checkpoint, given, wanted, calls):
    """One part on MindSpore in graph mode; runs in a process of its own and writes the file `wanted`."""
    from gm import ops
    from gm.model import load_model_config
    from gm.weights import Weights

    ops.set_device("CPU", ops.GRAPH_MODE)
    weights = Weights(load_model_config(CONFIG), checkpoint)
    outputs, seconds = PARTS[part][1](weights, dict(np.load(given)), calls)
    library = f"mindspore {versions()['mindspore']}"
    about = {"seconds": seconds, "peak_memory_bytes": peak_memory(), "library": library}
    np.savez(wanted, about=json.dumps(about), **outputs)


def model_section():
    """The part of the config that PyTorch's networks are built from, as JSON."""
    from gm.model import load_model_config
    from gm.settings import plain

    return json.dumps(plain(load_model_config(CONFIG).model))


def run_both(part, checkpoint, torch_python, calls, folder):
    """[what our side wrote, what PyTorch's side wrote] as dicts, "about" among them."""
    given, ours, theirs = (str(Path(folder) / f"{part}_{name}.npz") for name in ("inputs", "ours", "torch"))
    np.savez(given, **PARTS[part][0](np.random.default_rng(0)))
    model = model_section()
    command = [torch_python, HERE / "cross_check_torch.py", part, model, checkpoint, given, theirs, str(calls)]
    try:
        status = subprocess.run(command, check=False, env=os.environ).returncode
    except OSError as error:
        raise UserError(f"--torch_python {torch_python}: cannot be run: {error.strerror}") from error
    if status:
        raise UserError(
            f"the PyTorch side of {part} failed, see above; was {torch_python} set up with benchmarks/requirements.txt?"
        )
    process = multiprocessing.get_context("spawn").Process(target=our_side, args=(part, checkpoint, given, ours, calls))
    process.start()
    process.join()
    if process.exitcode:
        raise UserError(f"our side of {part} failed, see above")
    return [{name: value for name, value in np.load(path).items()} for path in (ours, theirs)]


def compare(ours, theirs):
    """Rows (name, shape, max |theirs|, error relative to that, our seconds, theirs) and two lines on the runs."""
    about = [json.loads(str(side.pop("about"))) for side in (ours, theirs)]
    if ours.keys() != theirs.keys():
        raise UserError(f"the two sides computed different things: {sorted(ours)} and {sorted(theirs)}")
    rows = []
    for name, reference in theirs.items():
        if ours[name].shape != reference.shape:
            raise UserError(f"{name}: shape {ours[name].shape} here, {reference.shape} in PyTorch")
        largest = np.abs(reference).max()
        error = np.abs(ours[name].astype(np.float64) - reference).max() / largest
        times = [side["seconds"].get(name) for side in about]
        rows.append((name, reference.shape, float(largest), float(error), *times))
    lines = [f"{side['library']}: peak {side['peak_memory_bytes'] / 1e9:.1f} GB" for side in about]
    return rows, lines


def _seconds(times):
    """First call and the median of the others."""
    if not times:
        return "-"
    return f"{times[0]:.1f}" + (f", then {np.median(times[1:]):.1f}" if times[1:] else "")


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="full-size checkpoint in the original's layout")
    parser.add_argument("--torch_python", required=True, help="the python of the PyTorch environment")
    parser.add_argument("--parts", type=list[str], default=list(PARTS), help="which of unet, vae, clip to run")
    parser.add_argument("--calls", type=int, default=2, help="of every network; the first one compiles")
    options = parser.parse_args(argv)
    if not Path(options.checkpoint).is_file():
        raise UserError(f"no such checkpoint: {options.checkpoint}")
    check_known("--parts", options.parts, PARTS)
    check_count("--calls", options.calls)
    rows, lines = [], []
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts:
            found = compare(*run_both(part, options.checkpoint, options.torch_python, options.calls, folder))
            rows += found[0]
            lines += [f"{part}, {line}" for line in found[1]]
    print("| output | shape | max of PyTorch's | relative error | seconds here | seconds PyTorch |")
    print("|---|---|---|---|---|---|")
    for name, shape, largest, error, ours, theirs in rows:
        print(f"| {name} | {shape} | {largest:.3g} | {error:.1e} | {_seconds(ours)} | {_seconds(theirs)} |")
    print("\n".join(["", *lines]))
    bad = [row[0] for row in rows if not row[3] <= LIMIT]  # a NaN is bad as well
    print(f"{len(rows) - len(bad)} of {len(rows)} within {LIMIT:g}" + (f"; too far: {', '.join(bad)}" if bad else ""))
    return 1 if bad or not rows else 0


if __name__ == "__main__":
    run_cli(main)
