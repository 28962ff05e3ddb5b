"""The PyTorch side of `cross_check.py`, in the environment of benchmarks/requirements.txt: run by it, not by hand.

Usage: cross_check_torch.py PART MODEL CHECKPOINT INPUTS.npz OUTPUTS.npz REPEAT; MODEL: the config's section as JSON.
"""

import json
import resource
import sys
import time

import numpy as np
import torch
from torch_models import make_clip, make_unet, make_vae


def timed(run, repeat):
    """(result, seconds of each of `repeat` calls)."""
    seconds = []
    for _ in range(repeat):
        start = time.monotonic()
        result = run()
        seconds.append(time.monotonic() - start)
    return result, seconds


def unet(model, checkpoint, inputs, repeat):
    network = make_unet(model, checkpoint)
    outputs, seconds = {}, {}
    for case in sorted({name.split("/")[0] for name in inputs}):
        x, c_noise, context, ids = (inputs[f"{case}/{name}"] for name in ("x", "c_noise", "context", "ids"))
        result, seconds[case] = timed(lambda: network(x, c_noise, context, ids).sample, repeat)  # noqa: B023
        outputs[case] = result.flatten(0, 1)
    return outputs, seconds


def vae(model, checkpoint, inputs, repeat):
    network = make_vae(model, checkpoint)
    z = inputs["z"]
    decoded, decode_seconds = timed(lambda: network.decode(z, num_frames=len(z)).sample, repeat)
    moments, encode_seconds = timed(lambda: network.quant_conv(network.encoder(inputs["pixels"])), repeat)
    seconds = {"decode": decode_seconds, "encode": encode_seconds}
    return {"decode": decoded, "encode": moments}, seconds


def clip(model, checkpoint, inputs, repeat):
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    network = make_clip(model, checkpoint)
    embedding, seconds = timed(lambda: network(inputs["seen"]).image_embeds, repeat)
    resized = (_resize_with_antialiasing(inputs["photo"], inputs["seen"].shape[2:]) + 1) / 2
    mean, deviation = inputs["mean"].reshape(3, 1, 1), inputs["deviation"].reshape(3, 1, 1)
    outputs = {"embedding": embedding, "preprocessing": (resized - mean) / deviation}
    return outputs, {"embedding": seconds}


def main():
    part, model, checkpoint, given, wanted, repeat = sys.argv[1:]
    inputs = {name: torch.from_numpy(array) for name, array in np.load(given).items()}
    run = {"unet": unet, "vae": vae, "clip": clip}[part]
    with torch.no_grad():
        outputs, seconds = run(json.loads(model), checkpoint, inputs, int(repeat))
    about = {
        "seconds": seconds,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "library": f"torch {torch.__version__}",
    }
    np.savez(wanted, about=json.dumps(about), **{name: value.numpy() for name, value in outputs.items()})


if __name__ == "__main__":
    main()
