"""Turn a picture, or a folder of pictures, into videos with Stable Video Diffusion.

python image_to_video.py --version=svd --SVD.checkpoint=svd.safetensors --image=photo.jpg

With no more than --image it uses svd_tiny, a small model that comes with the program.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

from jsonargparse import ArgumentParser

from gm import compile_cache
from gm.console import loading_bar, peak_memory, progress_bar, timed, versions
from gm.errors import UserError, run_cli
from gm.memory import parse_size

ROOT = Path(__file__).resolve().parent
TINY = "svd_tiny"
VERSIONS = (TINY, "svd", "svd_xt", "svd_xt_1_1", "svd_image_decoder", "svd_xt_image_decoder")
OUTPUT_TYPES = ("mp4", "gif", "frames", "latents")


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
    add("--dtype", choices=("float16", "bfloat16"), default="float16", help="of O2; bfloat16: Ascend 910B and later")
    add("--fast_float32", type=bool, nargs="?", const=True, default=False, help="let GPUs (TF32) and Ascend (HF32; on "
        "910A float16) narrow float32 convolutions and products: faster, wrong by about 5e-4 of the largest value")
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
    job = Job(arguments)
    if arguments.dry_run:
        print(json.dumps(job.settings(), indent=2, default=str))
        print("\n".join(f"{path}: {job.plan(path)[1]}" for path in images))
        return 0
    with compile_cache.compile_cache(arguments.compile_cache, lambda: job.graph_conditions(images)) as job.cached:
        run_all(job, images)
    return 0


def run_all(job, images):
    """Every picture; UserError at the end if one could not be done."""
    failures = []
    for path in images:
        try:
            job.run(path)
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
    if arguments.num_videos < 1:
        raise UserError(f"--num_videos {arguments.num_videos}: must be 1 or more")
    if arguments.output_fps is not None and not 0 < arguments.output_fps < float("inf"):
        raise UserError(f"--output_fps {arguments.output_fps}: must be more than 0")
    if arguments.memory_budget is not None:
        arguments.memory_budget = parse_size(arguments.memory_budget)
    if arguments.compile_cache is not None and arguments.mode == 1:
        raise UserError("--compile_cache: --mode=1 compiles nothing, give one of them")


def choose_tiny(arguments):
    """Fill in the small model where no model is named, and its weights where no others are."""
    if not arguments.version and not arguments.SVD.config:
        arguments.version = TINY
        print(f"no --version: using {TINY}, the small model that comes with the program; --help names the others")
    if arguments.version == TINY and not arguments.SVD.checkpoint:
        arguments.SVD.checkpoint = str(ROOT / "assets" / f"{TINY}.safetensors")


class Job:
    """The program with its model: everything that one command does for each picture."""

    def __init__(self, arguments):
        from gm import ops
        from gm.data.outputs import make_folder
        from gm.options import Options
        from gm.pipeline import ImageToVideo
        from gm.precision import level

        self.arguments = arguments
        make_folder(arguments.output_dir)
        ops.set_device(arguments.device_target, arguments.mode, arguments.fast_float32)
        self.attention_scores = ops.set_memory_budget(arguments.memory_budget)
        amp_level = level(arguments.amp_level, arguments.dtype)
        self.config_path = arguments.SVD.config or ROOT / "configs" / f"{arguments.version}.yaml"
        self.pipeline = ImageToVideo(
            self.config_path, arguments.SVD.checkpoint, arguments.SVD.delta, amp_level, loading_bar,
            arguments.low_memory,
        )
        changes = {f.name: arguments.SVD.get(f.name) for f in fields(Options) if f.name != "seed"}
        self.options = self.pipeline.options(seed=arguments.seed, **changes)
        if arguments.amp_level == "O2" and ops.device() == "CPU":
            print("warning: CPUs compute float16 slowly and with more memory: O2 is for NPUs and GPUs", file=sys.stderr)
        self.compiled = set()  # shapes of videos that the graph was compiled for
        self.cached = False  # whether the graphs are there from an earlier run
        for warning in self.options.warnings() + self.pipeline.warnings:
            print(f"warning: {warning}", file=sys.stderr)

    def settings(self):
        """Everything that decides the result, for the JSON file."""
        from gm import ops

        return {
            "config": str(self.config_path),
            "checkpoint": str(Path(self.arguments.SVD.checkpoint).resolve()),
            "delta": self.arguments.SVD.delta and str(Path(self.arguments.SVD.delta).resolve()),
            **asdict(self.options),
            "amp_level": self.arguments.amp_level,
            "dtype": self.arguments.dtype,
            "fast_float32": self.arguments.fast_float32,
            "mode": self.arguments.mode,
            "low_memory": self.arguments.low_memory,
            "attention_scores": self.attention_scores,
            "device_target": ops.device(),
            "output_fps": self.arguments.output_fps or self.options.fps,
            "watermark": self.arguments.watermark,
            "versions": versions(),
            "command": shlex.join(sys.argv),
        }

    def graph_conditions(self, images):
        """For `gm.compile_cache`: every setting but the numbers that only go through the networks."""
        from gm.ops import native

        sizes = []
        for path in images:
            with contextlib.suppress(UserError):  # it is told when its turn comes
                sizes += [self.plan(path)[0].shape] * self.arguments.num_videos
        if not self.arguments.low_memory:  # which makes the networks anew for every video
            sizes = list(dict.fromkeys(sizes))
        numbers = {"seed", "fps", "motion_bucket_id", "noise_aug_strength", "config", "checkpoint", "delta",
                   "output_fps", "watermark", "command"}
        settings = {name: value for name, value in self.settings().items() if name not in numbers}
        decoded = self.arguments.output_type != "latents"
        return [settings, self.pipeline.config.model, native.library(), decoded, sizes, sorted(self.pipeline.narrow())]

    def plan(self, path):
        """The picture as the model gets it, uint8 (h, w, 3), and a line that says what was done to it."""
        from gm.data.images import fit_image, load_image
        from gm.data.watermark import check_size
        from gm.pipeline import choose_size

        image = load_image(path)
        try:
            size = choose_size(self.pipeline.config, image.shape[:2], self.arguments.height, self.arguments.width)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        if self.arguments.watermark:
            check_size(*size)
        line = f"{size[0]}x{size[1]}"
        if size != image.shape[:2]:
            line = f"{image.shape[0]}x{image.shape[1]} scaled and cropped around the centre to {line} (height x width)"
        return fit_image(image, *size), line

    def run(self, path):
        """All videos of one picture."""
        image, line = self.plan(path)
        print(f"{path}: {line}")
        trained = self.pipeline.config.sampling
        if image.shape[:2] != (trained.height, trained.width):
            print(
                f"warning: the model was trained at {trained.height}x{trained.width} (height x width); other sizes can "
                "look worse", file=sys.stderr,
            )
        for k in range(self.arguments.num_videos):
            self.make_video(path, image, replace(self.options, seed=self.options.seed + k))

    def make_video(self, path, image, options):
        """One video: sample, decode, write."""
        from gm.data.outputs import next_base
        from gm.data.videos import to_uint8
        from gm.data.watermark import embed_watermark

        base = next_base(self.arguments.output_dir, path.stem)
        seconds, frames = {}, None
        with timed(seconds, "conditioning"):
            conditioning = self.pipeline.condition(image, options)
        with timed(seconds, "sampling"):
            latents = self.sample(image, options, conditioning)
        if self.arguments.output_type != "latents":
            with timed(seconds, "decoding"), progress_bar(options.num_frames, "decoding", "frame") as bar:
                pixels = self.pipeline.decode(latents, options, bar.update)
                frames = to_uint8(pixels, embed_watermark if self.arguments.watermark else None)
        with timed(seconds, "writing"):
            video = self.write(base, image, latents, frames)
        self.describe(base, path, image, options, seconds, video)
        times = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
        print(f"{video}: {times}, {sum(seconds.values()):.1f} s in all")

    def sample(self, image, options, conditioning):
        """The latents of one video, with a bar over the steps."""
        self.pipeline.denoiser  # noqa: B018  (loaded here, so that its bar comes before the sampler's)
        shape = (image.shape, options.num_frames)
        if self.arguments.mode == 0 and not self.cached and shape not in self.compiled:
            print("graph mode: compiling the network for this size; the first step takes long", file=sys.stderr)
            self.compiled.add(shape)
        with progress_bar(options.sampling_steps, "sampling", "step") as bar:
            for step in self.pipeline.steps(image, options, conditioning):
                latents = step.latents
                bar.update()
        return latents

    def write(self, base, image, latents, frames):
        """The video and what belongs to it, as base.mp4, base_image.png, base_sheet.png; returns the video's path."""
        from gm.data import outputs, videos

        kind = self.arguments.output_type
        outputs.write_png(image, f"{base}_image.png")
        if kind == "latents":
            outputs.write_npy(latents, f"{base}.npy")
            return Path(f"{base}.npy")
        outputs.write_png(videos.contact_sheet(frames), f"{base}_sheet.png")
        fps = self.arguments.output_fps or self.options.fps
        if kind == "frames":
            videos.write_frames(frames, Path(f"{base}_frames"))
            return Path(f"{base}_frames")
        path = Path(f"{base}.{kind}")
        {"mp4": videos.write_video, "gif": videos.write_gif}[kind](frames, path, fps)
        return path

    def describe(self, base, path, image, options, seconds, video):
        """base.json: enough to repeat the video, and what it cost."""
        from gm.data import outputs

        settings = {**self.settings(), **asdict(options)}
        about = {"image": str(Path(path).resolve()), "height": image.shape[0], "width": image.shape[1]}
        cost = {"seconds": seconds, "peak_memory_bytes": peak_memory()}
        outputs.write_json({"video": video.name, **about, **settings, **cost}, f"{base}.json")


if __name__ == "__main__":
    run_cli(main)
