"""This project's side of compare.py: run by it, not by hand."""

from __future__ import annotations

import json
import sys
import time
from types import SimpleNamespace

import mindspore as ms
import numpy as np
from mindspore import Tensor
from mindspore import ops as mindspore_ops

from gm import ops
from gm.compile_cache import compile_cache
from gm.console import peak_memory
from gm.diffusion.conditioning import vector_embedding
from gm.diffusion.loss import DiffusionLoss
from gm.model import load_model_config
from gm.pipeline import ImageToVideo
from gm.sizes import embedding_width
from gm.training.optimizer import AdamW
from gm.training.step import GradientSums, recompute_blocks, trainable_parameters
from gm.weights import Weights

ADAMW = {"beta1": 0.9, "beta2": 0.98, "eps": 1e-8, "weight_decay": 0.01, "clip_norm": 1.0, "shard": False}
RATE = 1e-5


def per_frame(weights, inputs, frames):
    """context, vector of every frame, as tensors."""
    vector = vector_embedding(*inputs["ids"].T, embedding_width(weights.config.model))
    return [Tensor(np.repeat(array, frames, 0)) for array in (inputs["context"], vector)]


def unet(weights, inputs, frames, kind):
    network, more = weights.load("unet").unet, per_frame(weights, inputs, frames)
    x, c_noise = Tensor(inputs["x"]), Tensor(np.repeat(inputs["c_noise"], frames))
    return lambda: network(x, c_noise, *more, frames)[0].asnumpy()


def decode(weights, inputs, frames, kind):
    decoder, z = weights.load("decoder"), Tensor(inputs["z"])
    return lambda: decoder(z, frames).asnumpy()


def encode(weights, inputs, frames, kind):
    encoder, pixels = weights.load("condition_encoder"), Tensor(inputs["pixels"])
    return lambda: encoder(pixels).asnumpy()


def clip(weights, inputs, frames, kind):
    tower, seen = weights.load("clip"), Tensor(inputs["seen"])
    return lambda: tower(seen).asnumpy()


def pipeline(weights, inputs, frames, kind):
    """Picture to video, with the config's settings."""
    video = ImageToVideo(weights.config, weights)
    options = video.options(sampler="euler")  # what the PyTorch side has; svd_tiny's own draws noise in every step

    def run():
        for step in video.steps(inputs["picture"], options):
            latents = step.latents
        return video.decode(latents, options)

    return run


def train(weights, inputs, frames, kind):
    """One step on the temporal layers; returns the losses of the frames, before the update."""
    denoiser = weights.load("unet")
    denoiser.set_train(True)
    if kind == "train_recompute":
        recompute_blocks(denoiser.unet)
    parameters = trainable_parameters(denoiser, temporal_only=True)
    gradients = GradientSums(DiffusionLoss(denoiser), parameters)
    optimizer = AdamW(parameters, gradients.sums, SimpleNamespace(**ADAMW))
    encoder = encode(weights, inputs, frames, kind) if kind == "train_encode" else None
    latents, noise = Tensor(inputs["z"]), Tensor(inputs["noise"])
    sigma, concat = (Tensor(np.repeat(inputs[name], frames, 0)) for name in ("sigma", "concat"))
    more, scale = per_frame(weights, inputs, frames), Tensor(np.float32(1))

    def step():
        if encoder is not None:
            encoder()
        losses = gradients(scale, latents, noise, sigma, concat, *more, frames).asnumpy()
        optimizer.step(RATE, 1)
        return losses

    return step


KINDS = {
    "unet": unet,
    "decode": decode,
    "encode": encode,
    "clip": clip,
    "pipeline": pipeline,
    "train": train,
    "train_recompute": train,
    "train_encode": train,
}


def matmul_gflops(n=2048):
    a = Tensor(np.ones((n, n), np.float32))
    best = min(_timed(lambda: mindspore_ops.matmul(a, a).asnumpy())[1] for _ in range(5))
    return 2 * n**3 / best / 1e9


def _timed(run):
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def set_threads(kernel=None, dispatch=None):
    """MindSpore's own numbers of threads; None: as it is."""
    if kernel is not None:
        ms.device_context.cpu.op_tuning.threads_num(kernel)
    if dispatch is not None:
        ms.runtime.dispatch_threads_num(dispatch)


def main():
    case = json.loads(sys.argv[1])
    set_threads(**case.get("threads", {}))
    ops.set_device("CPU", ops.GRAPH_MODE)
    weights = Weights(load_model_config(case["config"], case["changes"]), case["weights"])
    inputs = dict(np.load(case["inputs"]))
    shapes = {name: array.shape for name, array in inputs.items()}
    conditions = {name: case[name] for name in ("kind", "model", "sampling", "frames")}
    with compile_cache(case["compile_cache"], lambda: {**conditions, "shapes": shapes}):
        run = KINDS[case["kind"]](weights, inputs, case["frames"], case["kind"])
        result, seconds = _timed(run)
    np.save(case["results"], result)
    print("@@" + json.dumps({"seconds": seconds, "matmul_gflops": matmul_gflops()}), flush=True)
    for _ in sys.stdin:
        processor = time.process_time()
        about = {"seconds": _timed(run)[1], "processor": time.process_time() - processor, "peak_memory": peak_memory()}
        print("@@" + json.dumps(about), flush=True)


if __name__ == "__main__":
    main()
