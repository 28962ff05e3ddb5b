"""Turn a picture or a folder of them into videos with Stable Video Diffusion.

python image_to_video.py --version=svd --image=photo.jpg

With no more than --image it uses svd_tiny, a small model that comes with the
program. The options of the original's simple_video_sample.py work as well.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

import argparse
import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from gm import compile_cache, kernels
from gm.cli import run
from gm.cli.arguments import check_arguments, choose_model, make_job
from gm.console import say
from gm.errors import UserError, run_cli
from gm.inference_options import make_parser
from gm.sharing import roles
from gm.sharing.member import Member

if TYPE_CHECKING:
    from gm.job import Job


def main(argv: Sequence[str] | None = None) -> int:
    try:
        arguments = make_parser(__doc__).parse_args(argv)
        check_arguments(arguments)
        roles.check(arguments)
    except UserError:
        if roles.speaks():
            raise
        return 0  # the first one says so
    return roles.do_part(arguments, work)


def work(arguments: argparse.Namespace, member: Member | None = None, second: bool = False) -> int:
    """What the options ask for, or a member's share of it: the exit status. second: see `roles.do_part`."""
    compile_cache.quiet()
    from gm.data.images import list_images  # after parsing: --help needs no MindSpore

    first = not second and (member is None or member.rank == 0)  # what all devices would say alike
    latents = arguments.latents_in
    paths = [Path(latents)] if latents else list_images(arguments.image) if member is None else []
    choose_model(arguments, first)
    kernels.begin()
    job = make_job(arguments)
    if first:
        run.introduce(job)
    everything = run.Run(job, paths, latents, second)
    if arguments.dry_run:
        everything.check()
        return 0
    with kept_graphs(arguments, job, paths, member, first) as job.model.cached:
        if member is None:
            everything.make()
        else:
            member.make(job)
    return 0


def kept_graphs(
    arguments: argparse.Namespace, job: Job, paths: Sequence[Path], member: Member | None, first: bool
) -> AbstractContextManager[bool]:
    """The `compile_cache` of this run: None of it where nobody can know what this device will compile."""
    from gm.graphs import conditions, conditions_of_any  # imports mindspore

    place, asked = compile_cache.chosen(arguments.compile_cache, **job.record())
    known = functools.partial(conditions_of_any, job) if member else functools.partial(conditions, job, paths)
    why = None
    if place and member and known() is None:
        why = "several devices need --height and --width with it, and no --low_memory"
    elif place and arguments.guidance_devices > 1:
        why = "not with --guidance_devices"
    if why and asked and first:
        say(f"warning: --compile_cache is not used: {why}")
    return compile_cache.compile_cache(None if why else place, known, asked)


if __name__ == "__main__":
    run_cli(main)
