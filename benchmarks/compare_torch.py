"""The PyTorch side of compare.py, in the environment of benchmarks/requirements.txt: run by it, not by hand."""

import gzip
import json
import resource
import sys
import time

import numpy as np
import torch
from cross_check_torch import KEY_MAP, filled, set_epsilon
from torch.utils.flop_counter import FlopCounterMode

TEMPORAL = (".time_stack.", ".time_pos_embed.", ".time_mixer.")  # in the original names
RATE = 1e-5


def values(changes):
    """{"model.unet.model_channels": 64, …} with SVD's where nothing else is said."""
    found = {"model.unet.model_channels": 320, "model.vae.ch": 128}
    found.update({name: int(value) for name, value in (change.split("=") for change in changes)})
    return found


def make_unet(case):
    from diffusers import UNetSpatioTemporalConditionModel

    width = values(case["changes"])["model.unet.model_channels"]
    levels = tuple(width * mult for mult in (1, 2, 4, 4))
    heads = tuple(level // 64 for level in levels)
    model = filled("unet", case["weights"], lambda: UNetSpatioTemporalConditionModel(
        block_out_channels=levels, num_attention_heads=heads))
    set_epsilon(model)
    return model


def make_vae(case):
    from diffusers import AutoencoderKLTemporalDecoder

    levels = tuple(values(case["changes"])["model.vae.ch"] * mult for mult in (1, 2, 4, 4))
    return filled("vae", case["weights"], lambda: AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 4, block_out_channels=levels, layers_per_block=2, latent_channels=4))


def unet(case, inputs):
    model = make_unet(case)

    def run():
        return model(inputs["x"][None], inputs["c_noise"], inputs["context"], inputs["ids"]).sample[0]

    return torch.no_grad()(run)


def decode(case, inputs):
    model = make_vae(case)
    return torch.no_grad()(lambda: model.decode(inputs["z"], num_frames=case["frames"]).sample)


def encode(case, inputs):
    model = make_vae(case)
    return torch.no_grad()(lambda: model.quant_conv(model.encoder(inputs["pixels"])))


def train(case, inputs):
    """One step on the temporal layers, as in compare_ours.py; returns the losses of the frames, before the update."""
    model = make_unet(case).train()
    with gzip.open(KEY_MAP, "rt", encoding="utf-8") as file:
        names = {name: source for name, (source, _) in json.load(file)["unet"].items()}
    trained = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad = any(part in names[name] for part in TEMPORAL)
        if parameter.requires_grad:
            trained.append(parameter)
    if case["kind"] == "train_recompute":
        model.enable_gradient_checkpointing()
    groups = [{"params": [p for p in trained if (p.ndim > 1) == decayed], "weight_decay": 0.01 * decayed}
              for decayed in (True, False)]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), eps=1e-8)
    encoder = encode(case, inputs) if case["kind"] == "train_encode" else None
    sigma, frames = inputs["sigma"], case["frames"]
    total = sigma**2 + 1

    def step():
        if encoder is not None:
            encoder()
        noised = inputs["z"] + sigma * inputs["noise"]
        x = torch.cat([noised / total.sqrt(), inputs["concat"].repeat(frames, 1, 1, 1)], 1)
        f = model(x[None], 0.25 * sigma.log(), inputs["context"], inputs["ids"]).sample[0]
        denoised = noised / total - f * sigma / total.sqrt()
        losses = total / sigma**2 * ((denoised - inputs["z"]) ** 2).flatten(1).mean(1)
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return losses

    return step


KINDS = {"unet": unet, "decode": decode, "encode": encode, "train": train, "train_recompute": train,
         "train_encode": train}


def matmul_gflops(n=2048):
    a = torch.ones(n, n)
    return 2 * n**3 / min(timed(lambda: a @ a)[1] for _ in range(5)) / 1e9


def timed(run):
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def main():
    case = json.loads(sys.argv[1])
    inputs = {name: torch.from_numpy(array) for name, array in np.load(case["inputs"]).items()}
    run = KINDS[case["kind"]](case, inputs)
    with FlopCounterMode(display=False) as counter:
        result, seconds = timed(run)
    np.save(case["results"], result.detach().numpy())
    about = {"seconds": seconds, "gflop": counter.get_total_flops() / 1e9, "matmul_gflops": matmul_gflops()}
    print("@@" + json.dumps(about), flush=True)
    for _ in sys.stdin:
        seconds = timed(run)[1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print("@@" + json.dumps({"seconds": seconds, "peak_memory": peak}), flush=True)


if __name__ == "__main__":
    main()
