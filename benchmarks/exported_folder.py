"""Does real diffusers load what svd_tools/convert.py --to=diffusers writes, and compute the same?

python3 -m venv build/torch && build/torch/bin/pip install -r benchmarks/requirements.txt peft
python benchmarks/exported_folder.py --torch_python=build/torch/bin/python

A small random model of SVD's structure, and a random LoRA, are converted; PyTorch's side (exported_folder_torch.py)
loads the folder with StableVideoDiffusionPipeline.from_pretrained and the LoRA with PEFT, for diffusers has no LoRA
loader for SVD. Then the way back: what diffusers saves of them (safetensors in shards, and the LoRA) is read here.

Prints a Markdown table; exit status 1 if an error is larger than LIMIT.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser

from gm.errors import UserError, run_cli

HERE = Path(__file__).resolve().parent
LIMIT = 2e-5  # of max |difference| / max |PyTorch's value|
FRAMES = 3
MODEL = f"""
base: {HERE.parent / "configs" / "svd.yaml"}
model:
  unet: {{model_channels: 64, channel_mult: [1, 2, 2, 2], num_head_channels: 32, context_dim: 64, adm_in_channels: 192}}
  vae: {{ch: 32, ch_mult: [1, 1, 2, 2]}}
  clip: {{width: 64, layers: 3, head_width: 16}}
"""


def make_files(folder):
    """A random checkpoint and a LoRA for all attentions of one side; returns the model's config."""
    from make_random_checkpoint import mean_and_deviation

    from gm.checkpoint.lora import DOWN, UP, WEIGHT
    from gm.checkpoint.writer import write_safetensors
    from gm.model import expected_parameters, load_model_config

    (folder / "model.yaml").write_text(MODEL)
    shapes, random = expected_parameters(load_model_config(folder / "model.yaml")), np.random.default_rng(0)

    def draw(name):
        mean, deviation = mean_and_deviation(name, shapes[name])
        return random.normal(mean, deviation, shapes[name]).astype(np.float32)

    write_safetensors(folder / "svd.safetensors", [(name, shape, np.float32) for name, shape in shapes.items()], draw)
    lora = {}
    for name, shape in shapes.items():
        if ".output_blocks." in name and name.endswith((".to_q.weight", ".to_v.weight", ".to_out.0.weight")):
            layer = name[: -len(WEIGHT)]
            lora[layer + DOWN] = random.normal(0, shape[1] ** -0.5, (4, shape[1])).astype(np.float32)
            lora[layer + UP] = random.normal(0, 0.3, (shape[0], 4)).astype(np.float32)
    entries = [(name, array.shape, array.dtype) for name, array in lora.items()]
    write_safetensors(folder / "lora.safetensors", entries, lora.__getitem__, {"lora_alpha": "6.0"})
    return load_model_config(folder / "model.yaml")


def our_outputs(config, inputs, checkpoint, delta=None):
    """The outputs of UNet, VAE decoder, VAE encoder and image encoder."""
    from mindspore import Tensor

    from gm.checkpoint.delta import apply_delta
    from gm.diffusion.conditioning import vector_embedding
    from gm.sizes import embedding_width
    from gm.weights import Weights

    weights = Weights(config, checkpoint)
    print(f"{checkpoint}: {weights.checkpoint.description}")
    unet = weights.load("unet").unet
    if delta:
        apply_delta(unet, delta)
    vector = vector_embedding(*inputs["ids"].T, embedding_width(config.model))
    frames = [Tensor(np.repeat(a, FRAMES, 0)) for a in (inputs["c_noise"], inputs["context"], vector)]
    x = inputs["x"]
    found = {"unet": unet(Tensor(x.reshape(-1, *x.shape[2:])), *frames, FRAMES)[0].asnumpy()}
    found["decode"] = weights.load("decoder")(Tensor(inputs["z"]), FRAMES).asnumpy()
    found["encode"] = weights.load("condition_encoder")(Tensor(inputs["pixels"])).asnumpy()
    found["clip"] = weights.load("clip")(Tensor(inputs["seen"])).asnumpy()
    return found


def run(folder, torch_python):
    """[(what, error relative to the largest value)]."""
    from gm import ops
    from svd_tools import convert

    ops.set_device("CPU", ops.PYNATIVE_MODE)
    config, random = make_files(folder), np.random.default_rng(1)
    for source in ("svd", "lora"):
        convert.main(
            [
                f"--pt_weights_file={folder / source}.safetensors",
                f"--config={folder / 'model.yaml'}",
                f"--out_dir={folder / 'theirs'}",
                "--to=diffusers",
            ]
        )
    inputs = {
        "x": random.standard_normal((2, FRAMES, 8, 16, 16), np.float32),
        "c_noise": np.array([1.6, -0.7], np.float32),
        "context": random.standard_normal((2, 1, 64), np.float32),
        "z": random.standard_normal((FRAMES, 4, 8, 8), np.float32),
        "ids": np.array([[6, 127, 0.02], [11, 40, 0.3]], np.float32),
        "seen": random.standard_normal((2, 3, 224, 224), np.float32),
        "pixels": random.uniform(-1, 1, (1, 3, 64, 48)).astype(np.float32),
    }
    np.savez(folder / "inputs.npz", **inputs)
    command = [torch_python, HERE / "exported_folder_torch.py", folder]
    if subprocess.run(command, check=False, env=os.environ).returncode:
        raise UserError("the PyTorch side failed, see above")
    theirs, rows = dict(np.load(folder / "outputs.npz")), []
    plain = our_outputs(config, inputs, folder / "svd.safetensors")
    changed = [
        our_outputs(config, inputs, folder / "svd.safetensors", folder / delta)["unet"]
        for delta in ("lora.safetensors", "peft")
    ]
    saved = our_outputs(config, inputs, folder / "saved")
    cases = {
        "UNet": (plain["unet"], "unet"),
        "VAE decoder": (plain["decode"], "decode"),
        "VAE encoder": (plain["encode"], "encode"),
        "image encoder": (plain["clip"], "clip"),
        "UNet, epsilons of diffusers left as they are": (plain["unet"], "unet as loaded"),
        "UNet with LoRA, alpha 6, rank 4": (changed[0], "unet with lora"),
        "UNet with the LoRA that PEFT saved": (changed[1], "unet with lora"),
        "UNet from what diffusers saved, in shards": (saved["unet"], "unet"),
    }
    for name, (found, key) in cases.items():
        wanted = theirs[key].reshape(found.shape)
        rows.append((name, np.abs(found - wanted).max() / np.abs(wanted).max()))
    difference = np.abs(theirs["unet with lora"] - theirs["unet"]).max()
    rows.append(("how much the LoRA changes", difference / np.abs(theirs["unet"]).max()))
    return rows


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--torch_python", required=True, help="Python with benchmarks/requirements.txt and peft")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        rows = run(Path(folder), options.torch_python)
    print("| what | error / largest value |\n|---|---|")
    print("\n".join(f"| {name} | {error:.1e} |" for name, error in rows))
    compared = [error for name, error in rows if "left as they are" not in name and "changes" not in name]
    return int(not max(compared) < LIMIT or rows[-1][1] < 100 * LIMIT)


if __name__ == "__main__":
    run_cli(main)
