"""The config files of a diffusers folder, as the published SVD has them, for a model of any size; and whether those of
a folder are these.

What SVD fixes (sigmas, scaling, CLIP's mean) stands here as its own folder has it; sizes come from the model's config.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gm.checkpoint.diffusers_names import CLIP, UNET, VAE
from gm.checkpoint.folder import MEANS
from gm.diffusion.clip_preprocess import CLIP_MEAN, CLIP_STD
from gm.diffusion.latents import SCALE_FACTOR
from gm.settings import raise_if

if TYPE_CHECKING:
    from gm.model_config import ModelConfig, Networks

_VERSION = "0.24.0"  # of diffusers, the first that has SVD
# What no shape of the weights tells.
_DECISIVE = {
    f"{UNET}/config.json": ("num_attention_heads",),
    f"{VAE}/config.json": ("scaling_factor",),
    f"{CLIP}/config.json": ("num_attention_heads", "hidden_act", "layer_norm_eps"),
    "scheduler/scheduler_config.json": ("prediction_type",),
}
_SIGMA_MIN, _SIGMA_MAX = 0.002, 700.0


def model_configs(config: ModelConfig, parts: Collection[str]) -> dict[str, Any]:
    """{path in the folder: content} for the parts "unet", "vae", "image_encoder" that are there.

    config: a model's, see `gm.model.load_model_config`. All three parts together make a pipeline, which has three more.
    """
    model = config.model
    whole = {UNET, VAE, CLIP} <= set(parts)
    unet = {**_unet(model), "num_frames": config.sampling.num_frames}
    made = {UNET: unet, VAE: _vae(model), CLIP: _image_encoder(model)}
    found = {f"{part}/config.json": made[part] for part in parts}
    if whole:
        found["model_index.json"] = _index(model)
        found["scheduler/scheduler_config.json"] = _scheduler()
        found["feature_extractor/preprocessor_config.json"] = _feature_extractor(model.clip.image_size)
    return found


def check_configs(path: str | Path, config: ModelConfig, use_ema: bool = False) -> None:
    """UserError where the config files of a diffusers folder state what no shape of its weights tells, and state other
    values than those that the model is computed with.

    path: what was given as weights: the folder, a part's own folder, or a file in one; anything else says nothing.
    use_ema: the UNet's running mean is taken, which has a folder and a config of its own.
    """
    path = Path(path)
    places = {name: name.replace(f"{UNET}/", f"{MEANS}/") if use_ema else name for name in _DECISIVE}
    whole = {name: _read(path / place) for name, place in places.items()}
    own = _read((path if path.is_dir() else path.parent) / "config.json")
    if not own and not any(whole.values()):
        return
    right = model_configs(config, (UNET, VAE, CLIP))
    stated = whole if any(whole.values()) else {name: own for name in _DECISIVE if _is_of_class(own, right[name])}
    faults = [
        f"{places[name]}: {key} is {content[key]}, the model is computed with {right[name][key]}"
        for name, content in stated.items()
        for key in _DECISIVE[name]
        if key in content and _in_full(content[key], right[name][key]) != right[name][key]
    ]
    raise_if(faults, f"{path}: its config files tell of another model, whose results would be wrong here:")


def _read(path: Path) -> dict[str, Any]:
    """The content of a config file, {} where there is none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_of_class(found: dict[str, Any], right: dict[str, Any]) -> bool:
    return any(name in found and found[name] == right.get(name) for name in ("_class_name", "architectures"))


def _in_full(value: Any, right: Any) -> Any:
    """One number that stands for all levels, written for each."""
    return [value] * len(right) if isinstance(right, list) and not isinstance(value, list) else value


def _index(model: Networks) -> dict[str, Any]:
    return {
        "_class_name": "StableVideoDiffusionPipeline",
        "_diffusers_version": _VERSION,
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
        "vae": ["diffusers", _vae(model)["_class_name"]],
    }


def _unet(model: Networks) -> dict[str, Any]:
    unet = model.unet
    widths = [unet.model_channels * mult for mult in unet.channel_mult]
    attends = [2**level in unet.attention_resolutions for level in range(len(widths))]
    return {
        "_class_name": "UNetSpatioTemporalConditionModel",
        "_diffusers_version": _VERSION,
        "sample_size": 96,
        "in_channels": unet.in_channels,
        "out_channels": unet.out_channels,
        "down_block_types": [f"{'CrossAttn' * has}DownBlockSpatioTemporal" for has in attends],
        "up_block_types": [f"{'CrossAttn' * has}UpBlockSpatioTemporal" for has in reversed(attends)],
        "block_out_channels": widths,
        "layers_per_block": unet.num_res_blocks,
        "addition_time_embed_dim": unet.adm_in_channels // 3,
        "projection_class_embeddings_input_dim": unet.adm_in_channels,
        "cross_attention_dim": unet.context_dim,
        "transformer_layers_per_block": 1,
        "num_attention_heads": [width // unet.num_head_channels for width in widths],
    }


def _vae(model: Networks) -> dict[str, Any]:
    vae = model.vae
    widths = [vae.ch * mult for mult in vae.ch_mult]
    common = {
        "_diffusers_version": _VERSION,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "layers_per_block": vae.num_res_blocks,
        "latent_channels": vae.z_channels,
        "sample_size": 768,
        "scaling_factor": SCALE_FACTOR,
        "force_upcast": True,
    }
    if vae.temporal_decoder:
        return {"_class_name": "AutoencoderKLTemporalDecoder", **common}
    return {"_class_name": "AutoencoderKL", **common, "up_block_types": ["UpDecoderBlock2D"] * len(widths)}


def _image_encoder(model: Networks) -> dict[str, Any]:
    clip = model.clip
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_act": "gelu",
        "hidden_size": clip.width,
        "intermediate_size": int(clip.width * clip.mlp_ratio),
        "num_attention_heads": clip.width // clip.head_width,
        "num_hidden_layers": clip.layers,
        "projection_dim": clip.embed_dim,
        "image_size": clip.image_size,
        "patch_size": clip.patch_size,
        "num_channels": 3,
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "dropout": 0.0,
    }


def _scheduler() -> dict[str, Any]:
    return {
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": _VERSION,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "trained_betas": None,
        "prediction_type": "v_prediction",
        "interpolation_type": "linear",
        "use_karras_sigmas": True,
        "sigma_min": _SIGMA_MIN,
        "sigma_max": _SIGMA_MAX,
        "timestep_spacing": "leading",
        "timestep_type": "continuous",
        "steps_offset": 1,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
    }


def _feature_extractor(size: int) -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "feature_extractor_type": "CLIPFeatureExtractor",
        "crop_size": {"height": size, "width": size},
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
        "rescale_factor": 1 / 255,
    }
