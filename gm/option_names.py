"""What an option of another SVD program is called here, and what a mistyped one was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

# Names in diffusers, ComfyUI, the original's pages and scripts, and trainers → ours. Those that are ours but for the
# "SVD." in front are found without this table.
_HERE = {
    "--SVD.num_frames": ("video_frames", "frames", "n_frames", "video_length", "length", "t"),
    "--SVD.sampling_steps": ("num_inference_steps", "inference_steps", "steps", "n_steps", "ddim_steps"),
    "--SVD.min_guidance": ("min_guidance_scale", "min_cfg", "min_scale", "guidance_start"),
    "--SVD.max_guidance": ("max_guidance_scale", "cfg", "cfg_scale", "max_scale", "scale", "guidance_end"),
    "--SVD.min_guidance and --SVD.max_guidance": ("guidance_scale", "guidance"),
    "--SVD.fps": ("frames_per_second",),
    "--output_fps": ("frame_rate", "video_fps", "saving_fps", "export_fps"),
    "--SVD.motion_bucket_id": ("motion_bucket", "motion", "motion_score"),
    "--SVD.noise_aug_strength": ("augmentation_level", "noise_aug", "noise_augmentation", "augmentation", "strength"),
    "--SVD.decode_chunk_size": ("decode_t", "chunk_size", "decode_chunk", "decode_frames"),
    "--SVD.decode_tile": ("tile_size", "vae_tiling", "enable_vae_tiling", "tile"),
    "--SVD.sampler": ("sampler_name", "solver"),
    "--SVD.schedule": ("scheduler", "sigmas", "discretization", "timesteps"),
    "--SVD.checkpoint": (
        "ckpt",
        "ckpt_path",
        "ckpt_name",
        "weights",
        "checkpoint_path",
        "model_path",
        "pretrained_model_name_or_path",
        "pretrained_model_path",
        "model_id",
        "unet_path",
    ),
    "--version": ("model", "model_version", "variant_name", "model_name"),
    "--SVD.config": ("model_config", "config_path"),
    "--SVD.delta": ("lora", "lora_path", "lora_weights", "adapter"),
    "--image": (
        "input",
        "input_image",
        "init_image",
        "image_path",
        "source",
        "images",
        "image_folder",
        "input_folder",
        "validation_image",
    ),
    "--output_dir": ("output", "outdir", "out_dir", "output_path", "save_dir", "save_path", "filename_prefix"),
    "--end_image": ("last_image", "end_frame", "last_frame", "input_end_path", "image_end", "tail_image"),
    "--loop": ("looping", "loop_video"),
    "--segments": ("num_segments", "extend", "num_clips"),
    "--overlap": ("context_overlap", "overlap_frames"),
    "--output_type": ("format", "output_format", "save_format"),
    "--num_videos": ("num_videos_per_prompt", "num_samples", "n_samples", "num_images"),
    "--batch": ("batch_size", "videos_at_once", "b"),
    "--seed": ("noise_seed", "generator", "manual_seed", "random_seed"),
    "--height": ("h",),
    "--width": ("w",),
    "--amp_level": ("torch_dtype", "precision", "mixed_precision", "fp16", "half", "variant", "weight_dtype"),
    "--low_memory": (
        "enable_model_cpu_offload",
        "enable_sequential_cpu_offload",
        "cpu_offload",
        "lowvram",
        "medvram",
        "low_vram",
        "lowvram_mode",
        "offload",
    ),
    "--memory_budget": ("max_memory", "attention_slicing", "enable_attention_slicing"),
    "--mode": ("compile", "torch_compile", "ms_mode", "pynative"),
    "--SVD.cache_interval": ("deepcache", "deep_cache"),
    "--device_target": ("device_id", "gpu", "cuda", "npu"),
    "--dry_run": ("check", "test"),
}
_NOT_HERE = {
    "SVD takes no text: the picture is all that it is told": (
        "prompt",
        "negative_prompt",
        "positive",
        "negative",
        "text",
        "caption",
        "text_prompt",
        "n_prompt",
    ),
    "the sampler's progress is always shown": ("verbose", "progress", "quiet"),
    "it belongs to SV3D; this program does SVD": ("elevations_deg", "azimuths_deg", "image_frame_ratio"),
    "SVD starts from pure noise": ("denoise", "denoising_strength"),
    "attention needs no choice here: the best form is used, python -m gm.ops prints which": (
        "xformers",
        "enable_xformers_memory_efficient_attention",
        "flash_attention",
        "attention",
    ),
}
_LIKENESS = 0.65  # of two names, by difflib's ratio: --fsp is 0.67 like --fps
_NAMES = {name: ours for ours, names in _HERE.items() for name in names}
_REASONS = {name: reason for reason, names in _NOT_HERE.items() for name in names}


def answer_unknown(words: Sequence[str], known: Iterable[str]) -> str:
    """One message about command-line words that no option took.

    Args:
        words: for instance ["--cfg=2", "--prompt", "a cat"]; values behind an unknown option are among them.
        known: names of all options, such as "--SVD.fps".
    """
    options = [word.split("=", 1)[0] for word in words if word.startswith("-")]
    if not options:
        return f"{words[0]!r} belongs to no option: write --name=value, a picture as --image=photo.jpg; see --help"
    return "\n  ".join([f"{option}: {_answer(option, known)}" for option in dict.fromkeys(options)])


def _answer(option: str, known: Iterable[str]) -> str:
    name = option.lstrip("-").replace("-", "_").lower()
    plain = {ours.lstrip("-").lower(): ours for ours in known}
    leaves = {full.rsplit(".", 1)[-1]: ours for full, ours in reversed(plain.items())}
    leaf = name.rsplit(".", 1)[-1]
    for found in (plain.get(name), leaves.get(leaf), _NAMES.get(leaf)):
        if found:
            return f"is called {found} here; see --help"
    if leaf in _REASONS:
        return f"there is no such option: {_REASONS[leaf]}"
    candidates = {**_NAMES, **leaves, **plain}
    for typed in (name, leaf):
        near = difflib.get_close_matches(typed, candidates, 1, _LIKENESS)
        if near:
            return f"there is no such option; did you mean {candidates[near[0]]}? See --help"
    return "there is no such option; --help lists them all"
