"""The options of image_to_video.py: one table, in groups, from which the parser and its help are made.

An option may have several names. The first is ours; the others are the original script's (simple_video_sample.py) and
do the same.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

from gm import places
from gm.checkpoint.published import TINY, VERSIONS
from gm.diffusion.guidance import SHAPES
from gm.diffusion.sampling import SAMPLERS
from gm.diffusion.schedules import SCHEDULES
from gm.errors import UserError
from gm.option_names import answer_unknown
from gm.options import OUTPUT_TYPES, OVERLAP

_WIDEST = 40  # characters of choices that go beside an option's name
_DEVICES = {"cpu": "CPU", "gpu": "GPU", "cuda": "GPU", "ascend": "Ascend", "npu": "Ascend"}


def device(text):
    """MindSpore's name of a device from anybody's, in capitals or not: cuda -> GPU, npu -> Ascend."""
    if text.lower() not in _DEVICES:
        raise argparse.ArgumentTypeError(f"{text!r}: give CPU, GPU (or cuda) or Ascend (or npu)")
    return _DEVICES[text.lower()]


def switch(text):
    """True or False from true, false, yes, no, 1, 0."""
    found = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}: give true or false")
    return found


class Option(NamedTuple):
    """names: ours first. help: a sentence, with the default in brackets where the model's config has it."""

    names: tuple[str, ...]
    help: str
    type: type = str
    default: object = None
    choices: tuple | None = None
    flag: bool = False  # true where nothing follows it


def _option(names, help, type=str, default=None, choices=None, flag=False):
    return Option(tuple(names.split()), help, type, default, choices, flag)


GROUPS = {
    "what most people need": [
        _option("--image --input_path", "a picture (jpg, png, webp, bmp, tif, gif, avif; heic with pillow-heif), or a "
                "folder of them, done in the order of their names"),
        _option("--latents_in", "in place of --image: a .npy file of --output_type=latents, to be decoded, or with "
                "--segments continued"),
        _option("--version", f"the model: {', '.join(VERSIONS)}; without it {TINY}, a small one that "
                "comes with the program", choices=VERSIONS),
        _option("--output_dir --output_folder", "folder for the results; made if it is not there", default="outputs"),
        _option("--SVD.num_frames --num_frames", "frames of the video (svd 14, svd_xt 25)", int),
        _option("--SVD.sampling_steps --num_steps", "evaluations of the network (svd 25, svd_xt 30); heun takes two a "
                "step, one in the last", int),
        _option("--seed", "seed of the noise; the k-th video of a picture uses seed + k", int, 23),
        _option("--num_videos", "videos for each picture", int, 1),
        _option("--end_image", "a picture that the video ends with, in twice the time; with a folder, all of them do"),
        _option("--loop", "the video ends with the picture that it begins with, in twice the time", switch, False,
                flag=True),
        _option("--segments", "a longer video of so many, each going on from the one before; --latents_in is the first",
                int, 1),
        _option("--overlap", f"frames that a segment shares with the one before, by default {OVERLAP}", int),
        _option("--segment_motion", "SVD.motion_bucket_id of each segment, such as 160,60"),
        _option("--segment_fps", "SVD.fps of each segment; the file plays at SVD.fps, or --output_fps"),
        _option("--height", "height in pixels; by default the picture's own, see docs/inference.md on sizes", int),
        _option("--width", "width in pixels; the same", int),
        _option("--output_type", "what is written; frames: a folder of PNG; latents: .npy", default="mp4",
                choices=OUTPUT_TYPES),
        _option("--output_fps", "frames per second of the written video; by default SVD.fps", float),
        _option("--watermark", "put the original's invisible mark on the frames", switch, False, flag=True),
        _option("--skip_done", "leave out what an earlier run has made in the same folder: the same picture, seed and "
                "settings, all files as they were written", switch, False, flag=True),
        _option("--dry_run", "check everything, print the settings and the memory of each picture, stop",
                switch, False, flag=True),
    ],
    "weights": [
        _option("--SVD.config", "YAML file of the model and its default settings, in place of configs/<version>.yaml"),
        _option("--SVD.checkpoint", "weights, known by their content: the original .safetensors, a diffusers folder, a "
                "UNet alone with --SVD.base, the older port's .ckpt, what svd_tools/convert.py made; by "
                "default <version>.safetensors or <version>_fp16.safetensors of the next folder"),
        _option("--checkpoints_dir", "folder of weights, into which svd_tools/download.py puts them; by default "
                "SVD_CHECKPOINTS of the environment, else checkpoints"),
        _option("--SVD.base", "a whole model that completes the checkpoint where that is a part of one"),
        _option("--SVD.use_ema", "take the running mean (EMA) that lies beside the weights in the checkpoint", switch,
                False, flag=True),
        _option("--SVD.delta", "changes put on the checkpoint's weights: what train.py saved alone, LoRA files; one, "
                "or [a.safetensors:0.8,b.safetensors] with strengths"),
    ],
    "motion and likeness": [
        _option("--SVD.motion_bucket_id --motion_bucket_id", "amount of motion, 0 to 255 (127)", float),
        _option("--SVD.fps", "frames per second that the model is told; good values are 5 to 30 (7)", float),
        _option("--fps_id", "the same as the original counts: one less than --SVD.fps (6)", float),
        _option("--SVD.noise_aug_strength --cond_aug", "noise on the conditioning picture: more is less like it (0.02)",
                float),
        _option("--SVD.min_guidance", "guidance scale of the first frame (svd 1.0, svd_xt 1.5)", float),
        _option("--SVD.max_guidance", "guidance scale of the last frame (svd 2.5, svd_xt 3.0)", float),
        _option("--SVD.guidance_shape", "how the scale goes over the frames: from the first to the last (linear), to "
                "the last in the middle and back (triangle), nearly at once (trapezoid), throughout (constant)",
                choices=tuple(SHAPES)),
    ],
    "memory": [
        _option("--low_memory", "hold one part of the model at a time, float16 weights as they are, and half of a "
                "step; slower, the same result up to rounding", switch, False, flag=True),
        _option("--SVD.decode_chunk_size --decoding_t", "frames decoded at a time; fewer need less memory (14)", int),
        _option("--SVD.decode_tile", "pixels of the square tiles that frames are decoded in, by default whole; less "
                "memory, several times slower", int),
        _option("--SVD.encode_tile", "the same for the picture's encoding", int),
        _option("--memory_budget", "8GB, 500MB or bytes: attention's scores take a sixteenth of it, 1 GB at most; by "
                "default of what is left on a CPU's machine, 256 MB at most; the same result up to rounding; without "
                "effect where compiled kernels hold no scores"),
        _option("--memory_check", "off: try also what, by the estimate of memory, will not fit", default="on",
                choices=("on", "off")),
    ],
    "speed": [
        _option("--SVD.sampler", "euler is SVD's; lcm is for models distilled for it, such as AnimateLCM's",
                choices=tuple(SAMPLERS)),
        _option("--SVD.schedule", "noise levels: SVD's (karras), or NVIDIA's Align Your Steps, made for 10 steps (ays)",
                choices=tuple(SCHEDULES)),
        _option("--SVD.cache_interval", "DeepCache: only every so many evaluations compute the whole network; faster, "
                "not the same (1: all do)", int),
        _option("--SVD.guidance_sigma_min", "no guidance below this noise level: half the work there", float),
        _option("--SVD.guidance_sigma_max", "no guidance above this noise level", float),
        _option("--batch", "videos of one size, of several seeds or pictures, that are sampled at once; the same "
                "result up to rounding, in more memory", int, 1),
        _option("--guidance_devices", "2: two devices make one video, each one half of guidance, in half the time; "
                "started by msrun --worker_num=2", int, 1, choices=(1, 2)),
        _option("--compile_cache", "where graph mode keeps compiled networks for the next run with the same settings "
                "and sizes: a folder, or off (by default, on CPUs, ~/.cache/svd_mindspore/graphs)"),
    ],
    "device": [
        _option("--device_target --device", "CPU, GPU (or cuda) or Ascend (or npu); by default the best that MindSpore "
                "finds", device),
        _option("--mode", "0 graph mode (compiles first, then fast), 1 PyNative", int, 0, choices=(0, 1)),
        _option("--amp_level", "O0 float32; O2 float16 for UNet and CLIP", default="O0", choices=("O0", "O2")),
        _option("--dtype", "of O2 (float16); bfloat16: Ascend 910B and later", choices=("float16", "bfloat16")),
        _option("--fast_float32", "let GPUs (TF32) and Ascend (HF32; on 910A float16) narrow float32 convolutions and "
                "products: faster, wrong by about 5e-4 of the largest value", switch, False, flag=True),
    ],
}


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Every name of an option once, its choices or a short word for its value behind the first."""

    def _format_action_invocation(self, action):
        first, *others = action.option_strings
        return ", ".join([f"{first} {action.metavar or ''}".rstrip(), *others])

    def _get_help_string(self, action):
        shown = action.default is not None and action.default is not argparse.SUPPRESS and action.default is not False
        return f"{action.help} (%(default)s)" if shown else action.help


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; see --help")

    def parse_args(self, args=None, namespace=None):
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise UserError(answer_unknown(unknown, list(self._option_string_actions)))
        if arguments.image is None and arguments.latents_in is None:
            raise UserError("which picture? Give --image; see --help")
        return arguments


def _value(option):
    """What stands for an option's value in the help: its choices where they are short."""
    choices = ",".join(str(choice) for choice in option.choices or ())
    if 0 < len(choices) <= _WIDEST:
        return f"{{{choices}}}"
    return {int: "N", float: "X"}.get(option.type, "VALUE")


def make_parser(description):
    """The parser of all options. In what it returns the last part of an option's first name is the attribute; None is:
    what the config says. Faults are UserErrors, a foreign or mistyped option with the name that it has here."""
    parser = _Parser(
        prog=places.command("image_to_video.py"), usage="%(prog)s --image=PICTURE [--version=VERSION] [options]",
        description=description, formatter_class=_Formatter, add_help=False, allow_abbrev=False,
    )
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options:
            more = {"nargs": "?", "const": True} if option.flag else {"metavar": _value(option)}
            group.add_argument(
                *option.names, help=option.help, type=option.type, default=option.default, choices=option.choices,
                dest=option.names[0].rsplit(".", 1)[-1].lstrip("-"), **more,
            )
    group.add_argument("--help", "-h", action="help", help="print this and stop")
    return parser
