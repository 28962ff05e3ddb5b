"""What compare.py measures: its cases, with the weights and inputs that both sides are given."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from gm.checkpoint.writer import write_safetensors
from gm.data.images import fit_image, load_image, to_signed
from gm.diffusion.clip_preprocess import preprocess
from gm.errors import UserError
from gm.model import expected_parameters, load_model_config
from gm.networks.init import initial_values
from gm.pipeline import ImageToVideo
from gm.settings import plain

ROOT = Path(__file__).resolve().parent.parent
CONFIGS, ASSETS = ROOT / "configs", ROOT / "assets"
MEDIUM = ("model.unet.model_channels=64", "model.vae.ch=32", "model.clip.width=160", "model.clip.layers=8")
SMALL_UNET = ("model.unet.model_channels=64",)  # the other parts at SVD's size, without 6 GB of weights for nothing


class Case(NamedTuple):
    """kind: what is run; changes: to the config; frames, side: of the latents, where the inputs are random; checkpoint:
    None for random weights; batch: videos at once, for the UNet alone."""

    kind: str
    changes: tuple = ()
    frames: int = 1
    side: int = 32
    config: Path = CONFIGS / "svd.yaml"
    checkpoint: Path | None = None
    batch: int = 1


CASES = {
    "unet_medium": Case("unet", MEDIUM, 4, 32),
    "unet_medium_14": Case("unet", MEDIUM, 14, 32),
    "unet_medium_64": Case("unet", MEDIUM, 4, 64),
    "unet_full": Case("unet", (), 4, 32),
    "unet_full_14": Case("unet", (), 14, 32),
    "decode": Case("decode", SMALL_UNET, 4, 32),
    "encode": Case("encode", SMALL_UNET, 1, 32),
    "clip_medium": Case("clip", MEDIUM),
    "clip": Case("clip", SMALL_UNET),
    "tiny_pipeline": Case("pipeline", config=CONFIGS / "svd_tiny.yaml", checkpoint=ASSETS / "svd_tiny.safetensors"),
}
# One training step of the temporal layers at three sizes: from a cache, with the blocks recomputed, and with the clip's
# frames encoded first, as without a cache.
TRAIN_SIZES = {"small": (4, 16), "medium": (4, 32), "medium_14": (14, 32)}
CASES.update(
    {
        f"{kind}_{size}": Case(kind, MEDIUM, *shape)
        for size, shape in TRAIN_SIZES.items()
        for kind in ("train", "train_recompute", "train_encode")
    }
)


def write_weights(config, path, seed=0):
    """Random weights of every parameter; those that start at zero get small ones, so that nothing is without effect."""
    shapes = expected_parameters(config)

    def read(name):
        values = initial_values(name, shapes, seed)
        if values.any() or len(shapes[name]) == 1:
            return values
        return (0.02 * np.random.default_rng((seed, len(name))).standard_normal(shapes[name])).astype(np.float32)

    write_safetensors(path, [(name, shape, np.float32) for name, shape in shapes.items()], read)


def make_inputs(config, case):
    """Everything that a case of random inputs may need, by name."""
    random, model, frames, side, batch = np.random.default_rng(0), config.model, case.frames, case.side, case.batch

    def normal(*shape):
        return random.standard_normal(shape, np.float32)

    return {
        "x": normal(batch * frames, model.unet.in_channels, side, side),
        "c_noise": np.float32([0.4] * batch),
        "context": normal(batch, 1, model.unet.context_dim),
        "ids": np.float32([[6, 127, 0.02]] * batch),
        "z": normal(frames, 4, side, side),
        "noise": normal(frames, 4, side, side),
        "concat": normal(1, 4, side, side),
        "sigma": np.float32([1.5]),
        "pixels": random.uniform(-1, 1, (frames, 3, 8 * side, 8 * side)).astype(np.float32),
    }


def picture_inputs(config):
    """The demo picture at the config's size and what CLIP sees of it."""
    picture = fit_image(load_image(ASSETS / "demo.png"), config.sampling.height, config.sampling.width)
    pixels = to_signed(picture)
    return {"picture": picture, "pixels": pixels, "seen": preprocess(pixels, config.model.clip.image_size)}


def pipeline_inputs(config, checkpoint):
    """The picture, and the noise that this project draws for it."""
    inputs, video = picture_inputs(config), ImageToVideo(config, checkpoint)
    options = video.options()
    if not options.min_guidance == options.max_guidance == 1:
        raise UserError("the PyTorch side's sampling loop has no guidance: the config's must be 1")
    pixel_noise, latent_noise = video.noise(inputs["picture"], options)
    return {**inputs, "pixel_noise": pixel_noise, "latent_noise": latent_noise}


def prepare(case, folder):
    """What both processes of a case are told, a dict; its weights and inputs are written."""
    config = load_model_config(case.config, case.changes)
    weights = case.checkpoint or Path(folder) / f"weights_{abs(hash((case.config, case.changes)))}.safetensors"
    if not case.checkpoint and not weights.exists():
        write_weights(config, weights)
    if case.kind == "clip":
        arrays = picture_inputs(config)
    elif case.kind == "pipeline":
        arrays = pipeline_inputs(config, weights)
    else:
        arrays = make_inputs(config, case)
    inputs = Path(folder) / "inputs.npz"
    np.savez(inputs, **arrays)
    return {
        "kind": case.kind,
        "config": str(case.config),
        "changes": case.changes,
        "frames": case.frames,
        "weights": str(weights),
        "inputs": str(inputs),
        **plain(config),
    }
