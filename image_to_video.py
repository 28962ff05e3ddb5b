"""Turn a picture, or a folder of pictures, into videos with Stable Video Diffusion.

python image_to_video.py --version=svd --SVD.checkpoint=svd.safetensors --image=photo.jpg

With no more than --image it uses svd_tiny, a small model that comes with the program.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import fields
from pathlib import Path

from jsonargparse import ArgumentParser

from gm import compile_cache
from gm.console import peak_memory, show
from gm.errors import UserError, run_cli
from gm.memory import parse_size
from gm.options import OUTPUT_TYPES, ModelSettings, Options, VideoSettings

ROOT = Path(__file__).resolve().parent
TINY = "svd_tiny"
VERSIONS = (TINY, "svd", "svd_xt", "svd_xt_1_1", "svd_image_decoder", "svd_xt_image_decoder")


def make_parser():
    """All options. A default of None means: what the config says."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--image", required=True, help="a picture (jpg, jpeg, png, webp, bmp), or a folder of them in sorted order")
    add("--version", choices=VERSIONS, help="the model: short for --SVD.config=configs/<version>.yaml")
    add("--SVD.config", help="YAML file of the model and its default settings; instead of --version")
    add("--SVD.checkpoint", help="weights: the original .safetensors, or what svd_tools/convert.py made of it; "
        "svd_tiny has its own")
    add("--SVD.delta", help="weights that train.py saved alone, LoRA too, put over the checkpoint's")
    add("--SVD.num_frames", type=int, help="frames of the video (svd 14, svd_xt 25)")
    add("--SVD.sampling_steps", type=int, help="evaluations of the network (svd 25, svd_xt 30); heun takes two a "
        "step, one in the last")
    add("--SVD.min_guidance", type=float, help="guidance scale of the first frame (svd 1.0, svd_xt 1.5)")
    add("--SVD.max_guidance", type=float, help="guidance scale of the last frame (svd 2.5, svd_xt 3.0)")
    add("--SVD.fps", type=float, help="frames per second that the model is told; good values are 5 to 30 (7)")
    add("--SVD.motion_bucket_id", type=float, help="amount of motion, 0 to 255 (127)")
    add("--SVD.noise_aug_strength", type=float, help="noise on the conditioning picture: more is less like it (0.02)")
    add("--SVD.schedule", choices=("karras", "ays"), help="noise levels: SVD's (karras), or NVIDIA's Align Your Steps, "
        "made for 10 steps (ays)")
    add("--SVD.sampler", choices=("euler", "heun", "dpmpp_2m", "lcm"),
        help="euler is SVD's; lcm is for models distilled for it, such as AnimateLCM's")
    add("--SVD.cache_interval", type=int, help="DeepCache: only every so many evaluations compute the whole network; "
        "faster, not the same (1: all do)")
    add("--SVD.guidance_sigma_min", type=float, help="no guidance below this noise level: half the work there")
    add("--SVD.guidance_sigma_max", type=float, help="no guidance above this noise level")
    add("--SVD.decode_chunk_size", type=int, help="frames decoded at a time; fewer need less memory (14)")
    add("--SVD.decode_tile", type=int, help="pixels of the square tiles that frames are decoded in, by default whole; "
        "less memory, several times slower")
    add("--SVD.encode_tile", type=int, help="the same of the picture's encoding")
    add("--seed", type=int, default=23, help="seed of the noise; the k-th video of a picture uses seed + k")
    add("--num_videos", type=int, default=1, help="videos for each picture")
    add("--height", type=int, help="height in pixels; by default the picture's own, see the README on sizes")
    add("--width", type=int, help="width in pixels; the same")
    add("--output_dir", default="outputs", help="folder for the results; made if it is not there")
    add("--output_fps", type=float, help="frames per second of the written video; by default SVD.fps")
    add("--output_type", choices=OUTPUT_TYPES, default="mp4", help="frames: a folder of PNG; latents: .npy")
    add("--watermark", type=bool, default=False, help="put the original's invisible mark on the frames")
    add("--device_target", choices=("CPU", "GPU", "Ascend"), help="by default the best that MindSpore finds")
    add("--mode", type=int, choices=(0, 1), default=0, help="0 graph mode (compiles first, then fast), 1 PyNative")
    add("--amp_level", choices=("O0", "O2"), default="O0", help="O0 float32; O2 float16 for UNet and CLIP")
    add("--low_memory", type=bool, nargs="?", const=True, default=False,
        help="hold one part of the model at a time, float16 weights as they are, and half of a step; slower, the same "
        "result up to rounding")
    add("--memory_budget", type=str, help="8GB, 500MB or bytes: attention's scores take a sixteenth of it, 1 GB at "
        "most; by default of what is left on a CPU's machine, 256 MB at most; the same result up to rounding; without "
        "effect where compiled kernels hold no scores")
    add("--compile_cache", type=str, help="folder where graph mode keeps compiled networks for the next run with the "
        "same settings and sizes")
    add("--dry_run", type=bool, nargs="?", const=True, default=False, help="check everything, print the settings, stop")
    return parser


def main(argv=None):
    arguments = make_parser().parse_args(argv)
    if arguments.compile_cache:
        compile_cache.quiet()
    from gm.data.images import list_images  # after parsing: --help needs no MindSpore

    images = list_images(arguments.image)
    check_arguments(arguments)
    choose_tiny(arguments)
    job = make_job(arguments)
    for warning in job.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    if arguments.dry_run:
        print(json.dumps(job.record(), indent=2, default=str))
        print("\n".join(f"{path}: {job.plan(path).change}" for path in images))
        return 0
    with compile_cache.compile_cache(arguments.compile_cache, lambda: job.graph_conditions(images)) as found:
        job.model.cached = found
        run_all(job, images)
    return 0


def make_job(arguments):
    """The `gm.job.Job` that the options ask for."""
    from gm.job import Job, Model

    settings = VideoSettings(
        {**{f.name: arguments.SVD.get(f.name) for f in fields(Options)}, "seed": arguments.seed},
        **{f.name: arguments[f.name] for f in fields(VideoSettings) if f.name != "sampling"},
    )
    chosen = {f.name: arguments.get(f.name) for f in fields(ModelSettings)}
    chosen.update({name: arguments.SVD[name] for name in ("config", "checkpoint", "delta")})
    return Job(Model(ModelSettings(**chosen)), settings, shlex.join(sys.argv))


def run_all(job, images):
    """Every picture; UserError at the end if one could not be done."""
    failures = []
    for path in images:
        try:
            picture = job.plan(path)
            print(f"{path}: {picture.change}")
            show(job.run(picture))
        except UserError as error:
            if len(images) == 1:
                raise
            compile_cache.stop()
            failures.append(f"{path}: {error}")
            print(f"error: {failures[-1]}", file=sys.stderr)
    print(f"{len(images) - len(failures)} of {len(images)} pictures done, peak memory {peak_memory() / 1e9:.1f} GB")
    if failures:
        raise UserError("\n  ".join([f"{len(failures)} of {len(images)} pictures failed:", *failures]))


def check_arguments(arguments):
    """Faults that need neither config nor checkpoint."""
    if arguments.version and arguments.SVD.config:
        raise UserError("--version and --SVD.config both name a model: give one of them")
    named = arguments.version or arguments.SVD.config
    if arguments.SVD.checkpoint and not named:
        raise UserError(f"which model? Give --version ({', '.join(VERSIONS)}) or --SVD.config")
    if named and named != TINY and not arguments.SVD.checkpoint:
        raise UserError("--SVD.checkpoint: name the weights. The README says where they are published")
    if arguments.memory_budget is not None:
        arguments.memory_budget = parse_size(arguments.memory_budget)
    if arguments.compile_cache is not None and arguments.mode == 1:
        raise UserError("--compile_cache: --mode=1 compiles nothing, give one of them")


def choose_tiny(arguments):
    """Fill in the small model where no model is named, and its files where no others are."""
    if not arguments.version and not arguments.SVD.config:
        arguments.version = TINY
        print(f"no --version: using {TINY}, the small model that comes with the program; --help names the others")
    if arguments.version == TINY and not arguments.SVD.checkpoint:
        arguments.SVD.checkpoint = str(ROOT / "assets" / f"{TINY}.safetensors")
    if not arguments.SVD.config:
        arguments.SVD.config = str(ROOT / "configs" / f"{arguments.version}.yaml")


if __name__ == "__main__":
    run_cli(main)
