"""The PyTorch side of `cross_check.py`, in the environment of benchmarks/requirements.txt: run by it, not by hand.

Usage: cross_check_torch.py PART CHECKPOINT INPUTS.npz OUTPUTS.npz REPEAT
"""

import gzip
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

KEY_MAP = Path(__file__).resolve().parent / "key_map.json.gz"
# The ResBlocks of the original's UNet have this epsilon; diffusers has 1e-6 in most of them.
UNET_RESNET_EPS = 1e-5


def weights(section, checkpoint, model):
    """The state dict that `model` asks for, float32, from the original's single file through the map of names."""
    with gzip.open(KEY_MAP, "rt", encoding="utf-8") as file:
        names = json.load(file)[section]
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    if wanted.keys() != names.keys():
        raise SystemExit(f"{section}: names differ from the map: {sorted(wanted.keys() ^ names.keys())[:10]}")
    state = {}
    with safe_open(checkpoint, framework="pt") as file:
        for name, (source, change) in names.items():
            value = file.get_tensor(source).float()
            if change and change.startswith("rows["):  # q, k or v of CLIP's fused projection
                value = value.chunk(3)[int(change[len("rows[")])].clone()
            elif change == "transpose":
                value = value.T.contiguous()
            state[name] = value.reshape(wanted[name]) if change and change.startswith("reshape") else value
    return state


def filled(section, checkpoint, make):
    """A model made without memory of its own and given the checkpoint's tensors."""
    with torch.device("meta"):
        model = make()
    model.load_state_dict(weights(section, checkpoint, model), strict=True, assign=True)
    return model.eval()


def set_epsilon(unet):
    """Give every norm of the UNet's ResBlocks the original's epsilon; returns how many had another."""
    changed = 0
    for path, module in unet.named_modules():
        in_resblock = ".spatial_res_block." in path or ".temporal_res_block." in path
        if in_resblock and isinstance(module, torch.nn.GroupNorm) and module.eps != UNET_RESNET_EPS:
            module.eps = UNET_RESNET_EPS
            changed += 1
    return changed


def timed(run, repeat):
    """(result, seconds of each of `repeat` calls)."""
    seconds = []
    for _ in range(repeat):
        start = time.monotonic()
        result = run()
        seconds.append(time.monotonic() - start)
    return result, seconds


def unet(checkpoint, inputs, repeat):
    from diffusers import UNetSpatioTemporalConditionModel

    model = filled("unet", checkpoint, lambda: UNetSpatioTemporalConditionModel(num_attention_heads=(5, 10, 20, 20)))
    print(f"epsilon of {set_epsilon(model)} group norms in ResBlocks set to {UNET_RESNET_EPS:g}")
    outputs, seconds = {}, {}
    for case in sorted({name.split("/")[0] for name in inputs}):
        x, c_noise, context, ids = (inputs[f"{case}/{name}"] for name in ("x", "c_noise", "context", "ids"))
        result, seconds[case] = timed(lambda: model(x, c_noise, context, ids).sample, repeat)  # noqa: B023
        outputs[case] = result.flatten(0, 1)
    return outputs, seconds


def vae(checkpoint, inputs, repeat):
    from diffusers import AutoencoderKLTemporalDecoder

    def make():
        levels = (128, 256, 512, 512)
        down = ("DownEncoderBlock2D",) * len(levels)
        return AutoencoderKLTemporalDecoder(
            down_block_types=down, block_out_channels=levels, layers_per_block=2, latent_channels=4
        )

    model = filled("vae", checkpoint, make)
    z = inputs["z"]
    decoded, decode_seconds = timed(lambda: model.decode(z, num_frames=len(z)).sample, repeat)
    moments, encode_seconds = timed(lambda: model.quant_conv(model.encoder(inputs["pixels"])), repeat)
    seconds = {"decode": decode_seconds, "encode": encode_seconds}
    return {"decode": decoded, "encode": moments}, seconds


def clip(checkpoint, inputs, repeat):
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=1280, intermediate_size=5120, projection_dim=1024, num_hidden_layers=32, num_attention_heads=16,
        image_size=224, patch_size=14, hidden_act="gelu", layer_norm_eps=1e-5,
    )
    model = CLIPVisionModelWithProjection(config)  # it has a buffer that is no weight, so not on the meta device
    model.load_state_dict(weights("image_encoder", checkpoint, model), strict=True, assign=True)
    model.eval()
    embedding, seconds = timed(lambda: model(inputs["seen"]).image_embeds, repeat)
    resized = (_resize_with_antialiasing(inputs["photo"], (224, 224)) + 1) / 2
    mean, deviation = inputs["mean"].reshape(3, 1, 1), inputs["deviation"].reshape(3, 1, 1)
    outputs = {"embedding": embedding, "preprocessing": (resized - mean) / deviation}
    return outputs, {"embedding": seconds}


def main():
    part, checkpoint, given, wanted, repeat = sys.argv[1:]
    inputs = {name: torch.from_numpy(array) for name, array in np.load(given).items()}
    with torch.no_grad():
        outputs, seconds = {"unet": unet, "vae": vae, "clip": clip}[part](checkpoint, inputs, int(repeat))
    about = {
        "seconds": seconds,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "library": f"torch {torch.__version__}",
    }
    np.savez(wanted, about=json.dumps(about), **{name: value.numpy() for name, value in outputs.items()})


if __name__ == "__main__":
    main()
