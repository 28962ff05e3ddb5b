"""From what was typed to a job: faults that several options make together, the model's files, the settings."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gm import imports, places
from gm.checkpoint.published import TINY, VERSIONS, checkpoints_folder, find_checkpoint
from gm.errors import UserError
from gm.options import ModelSettings, Options, VideoSettings
from gm.settings import those_of

if TYPE_CHECKING:
    from gm.job import Job

_NOT_WITH_LATENTS = ("image", "height", "width", "end_image", "loop", "skip_done")


def check_arguments(arguments: argparse.Namespace) -> None:
    """Faults that need neither config nor checkpoint; fills in what was said in other words.

    Raises:
        UserError: options that contradict each other.
    """
    if arguments.latents_in:
        clashes = [f"--{name}" for name in _NOT_WITH_LATENTS if getattr(arguments, name)]
        clashes += ["--compile_cache"] * (arguments.compile_cache not in (None, "off"))
        clashes += ["--num_videos"] * (arguments.num_videos > 1)
        clashes += ["--guidance_devices"] * (arguments.guidance_devices > 1)
        clashes += ["--output_type=latents"] * (arguments.output_type == "latents")
        if clashes:
            raise UserError(f"--latents_in is decoded as it is: it goes without {' and '.join(clashes)}")
        arguments.compile_cache = "off"
    if arguments.version and arguments.config:
        raise UserError("--version and --SVD.config both name a model: give one of them")
    if arguments.checkpoint and not (arguments.version or arguments.config):
        raise UserError(f"which model? Give --version ({', '.join(VERSIONS)}) or --SVD.config")
    if arguments.fps_id is not None:
        if arguments.fps is not None:
            raise UserError(f"--fps_id={arguments.fps_id:g} is --SVD.fps={arguments.fps_id + 1:g}: give one of them")
        arguments.fps = arguments.fps_id + 1
    if arguments.compile_cache not in (None, "off") and arguments.mode == 1:
        raise UserError("--compile_cache: --mode=1 compiles nothing, give one of them")


def choose_model(arguments: argparse.Namespace, say: bool = True) -> None:
    """Fill in the small model where no model is named, and the files of the model where none are.

    Raises:
        UserError: a config that is nowhere; weights that are nowhere, with the command that gets them.
    """
    if not arguments.version and not arguments.config:
        arguments.version = TINY
        if say:
            print(f"no --version: using {TINY}, the small model that comes with the program; --help names the others")
    if not arguments.config:
        arguments.config = str(places.CONFIGS / f"{arguments.version}.yaml")
    if not arguments.checkpoint:  # whose name is the config's
        if not places.config(arguments.config).is_file():
            raise UserError(
                f"no config at {arguments.config}: check the path, or name one that comes with the program by "
                f"--version ({', '.join(VERSIONS)})"
            )
        folder = checkpoints_folder(arguments.checkpoints_dir)
        arguments.checkpoint = str(find_checkpoint(Path(arguments.config).stem, folder))


def make_job(arguments: argparse.Namespace) -> Job:
    """The job that the options ask for. Imports mindspore.

    Raises:
        UserError: see `gm.job.Job` and `gm.loaded.Model`.
    """
    with imports.for_good():
        from gm.job import Job
        from gm.loaded import Model

    chosen = vars(arguments)
    settings = VideoSettings(those_of(Options, chosen), **those_of(VideoSettings, chosen))
    return Job(Model(ModelSettings(**those_of(ModelSettings, chosen))), settings, shlex.join(sys.argv))
