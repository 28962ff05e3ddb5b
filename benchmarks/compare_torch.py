"""The PyTorch side of compare.py, in the environment of benchmarks/requirements.txt: run by it, not by hand."""

import json
import resource
import sys
import time

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from torch_models import make_clip, make_unet, make_vae, original_names

TEMPORAL = (".time_stack.", ".time_pos_embed.", ".time_mixer.")  # in the original names
RATE = 1e-5


def unet(case, inputs):
    model = make_unet(case["model"], case["weights"])

    def run():
        videos = inputs["x"].unflatten(0, (-1, case["frames"]))
        return model(videos, inputs["c_noise"], inputs["context"], inputs["ids"]).sample.flatten(0, 1)

    return torch.no_grad()(run)


def decode(case, inputs):
    model = make_vae(case["model"], case["weights"])
    return torch.no_grad()(lambda: model.decode(inputs["z"], num_frames=case["frames"]).sample)


def encode(case, inputs):
    model = make_vae(case["model"], case["weights"])
    return torch.no_grad()(lambda: model.quant_conv(model.encoder(inputs["pixels"])))


def clip(case, inputs):
    model = make_clip(case["model"], case["weights"])
    return torch.no_grad()(lambda: model(inputs["seen"]).image_embeds)


def karras(steps):
    """Noise levels of SVD (Karras et al. 2022, equation 5): 700 to 0.002, rho 7, and a final 0."""
    high, low = 700 ** (1 / 7), 0.002 ** (1 / 7)
    levels = (high + torch.linspace(0, 1, steps, dtype=torch.float64) * (low - high)) ** 7
    return torch.cat([levels, torch.zeros(1)]).float()


def denoise(model, x, sigma, concat, context, ids):
    """Estimate of the clean latents of one video x (t, z, h, w) at the noise level sigma (1,)."""
    total = sigma**2 + 1
    given = torch.cat([x / total.sqrt(), concat.expand(len(x), -1, -1, -1)], 1)
    f = model(given[None], 0.25 * sigma.log(), context, ids).sample[0]
    return x / total - f * sigma / total.sqrt()


def pipeline(case, inputs):
    """Picture to video, with the config's settings and no guidance."""
    # Not with diffusers' own pipeline: there what CLIP sees has 224x224 pixels, whatever its config says.
    model, checkpoint, sampling = case["model"], case["weights"], case["sampling"]
    tower, vae, network = (make(model, checkpoint) for make in (make_clip, make_vae, make_unet))
    strength = sampling["noise_aug_strength"]
    ids = torch.tensor([[sampling["fps"] - 1, sampling["motion_bucket_id"], strength]], dtype=torch.float32)
    sigmas = karras(sampling["sampling_steps"])

    def run():
        context = tower(inputs["seen"]).image_embeds[:, None]
        concat = vae.encode(inputs["pixels"] + strength * inputs["pixel_noise"]).latent_dist.mode()
        x = inputs["latent_noise"] * (sigmas[0] ** 2 + 1).sqrt()
        for sigma, following in zip(sigmas[:-1], sigmas[1:]):
            estimate = denoise(network, x, sigma[None], concat, context, ids)
            x = x + (following - sigma) * (x - estimate) / sigma
        chunks = (x / vae.config.scaling_factor).split(sampling["decode_chunk_size"])
        return torch.cat([vae.decode(chunk, num_frames=len(chunk)).sample for chunk in chunks])

    return torch.no_grad()(run)


def train(case, inputs):
    """One step on the temporal layers, as in compare_ours.py; returns the losses of the frames, before the update."""
    model = make_unet(case["model"], case["weights"]).train()
    names = original_names("unet", case["model"], model.state_dict())
    trained = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad = any(part in names[name][0] for part in TEMPORAL)
        if parameter.requires_grad:
            trained.append(parameter)
    if case["kind"] == "train_recompute":
        model.enable_gradient_checkpointing()
    groups = [
        {"params": [p for p in trained if (p.ndim > 1) == decayed], "weight_decay": 0.01 * decayed}
        for decayed in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), eps=1e-8)
    encoder = encode(case, inputs) if case["kind"] == "train_encode" else None
    sigma = inputs["sigma"]
    given = sigma, inputs["concat"], inputs["context"], inputs["ids"]
    weight = (sigma**2 + 1) / sigma**2

    def step():
        if encoder is not None:
            encoder()
        estimate = denoise(model, inputs["z"] + sigma * inputs["noise"], *given)
        losses = weight * ((estimate - inputs["z"]) ** 2).flatten(1).mean(1)
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
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
    a = torch.ones(n, n)
    return 2 * n**3 / min(timed(lambda: a @ a)[1] for _ in range(5)) / 1e9


def timed(run):
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def serve(run, about):
    """Say what is known after the first call, and then answer every line by one call."""
    print("@@" + json.dumps(about), flush=True)
    for _ in sys.stdin:
        seconds = timed(run)[1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print("@@" + json.dumps({"seconds": seconds, "peak_memory": peak}), flush=True)


def main():
    case = json.loads(sys.argv[1])
    inputs = {name: torch.from_numpy(array) for name, array in np.load(case["inputs"]).items()}
    run = KINDS[case["kind"]](case, inputs)
    with FlopCounterMode(display=False) as counter:
        result, seconds = timed(run)
    np.save(case["results"], result.detach().numpy())
    gflop = counter.get_total_flops() / 1e9
    serve(run, {"seconds": seconds, "gflop": gflop, "matmul_gflops": matmul_gflops()})


if __name__ == "__main__":
    main()
