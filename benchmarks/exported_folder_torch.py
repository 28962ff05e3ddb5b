"""The PyTorch side of `exported_folder.py`: run by it, not by hand. Usage: exported_folder_torch.py FOLDER."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import StableVideoDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch_models import set_epsilon


def add_lora(unet, path):
    """Put a LoRA file in diffusers' layout on a UNet, by the settings in its header; returns the settings."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["lora_adapter_metadata"])
    settings = LoraConfig(
        **{name.removeprefix("unet."): value for name, value in about.items() if name.split(".")[-1] != "peft_type"}
    )
    inject_adapter_in_model(settings, unet)
    state = {name.removeprefix("unet."): value for name, value in load_file(path).items()}
    result = set_peft_model_state_dict(unet, state)
    missing = [name for name in result.missing_keys if "lora" in name]
    if result.unexpected_keys or missing:
        raise SystemExit(f"LoRA: {result.unexpected_keys[:5]} unexpected, {missing[:5]} missing")
    return settings


def main():
    folder = Path(sys.argv[1])
    inputs = {name: torch.from_numpy(array) for name, array in np.load(folder / "inputs.npz").items()}
    pipeline = StableVideoDiffusionPipeline.from_pretrained(folder / "theirs/svd")
    print(*(type(part).__name__ for part in (pipeline, pipeline.unet, pipeline.vae, pipeline.scheduler)))
    pipeline.save_pretrained(folder / "saved")
    (folder / "saved/unet/diffusion_pytorch_model.safetensors").unlink()
    pipeline.unet.save_pretrained(folder / "saved/unet", max_shard_size="20MB")
    unet, outputs = pipeline.unet.eval(), {}

    def run():
        return unet(*(inputs[name] for name in ("x", "c_noise", "context", "ids"))).sample

    with torch.no_grad():
        outputs["unet as loaded"] = run()
        print(f"epsilon of {set_epsilon(unet)} group norms set to the original's")
        outputs["unet"] = run()
        outputs["decode"] = pipeline.vae.eval().decode(inputs["z"], num_frames=len(inputs["z"])).sample
        outputs["encode"] = pipeline.vae.encode(inputs["pixels"]).latent_dist.parameters
        outputs["clip"] = pipeline.image_encoder.eval()(inputs["seen"]).image_embeds
        settings = add_lora(unet, folder / "theirs/lora_pytorch_lora_weights.safetensors")
        outputs["unet with lora"] = run()
    (folder / "peft").mkdir()
    about = {"lora_adapter_metadata": json.dumps({"r": settings.r, "lora_alpha": settings.lora_alpha})}
    save_file(get_peft_model_state_dict(unet), folder / "peft/adapter_model.safetensors", about)
    np.savez(folder / "outputs.npz", **{name: value.numpy() for name, value in outputs.items()})


if __name__ == "__main__":
    main()
