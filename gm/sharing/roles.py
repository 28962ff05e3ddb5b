"""What a process does of one command: all of it, or its part where msrun or another process started it."""

from __future__ import annotations

import argparse
import time
from typing import Callable

from gm.errors import UserError
from gm.sharing import launcher
from gm.sharing.launcher import Worker
from gm.sharing.member import joined
from gm.sharing.supervisor import supervise

_LAST_WORDS = 20  # seconds that the first of two devices has to say what both fail by, before the launcher ends all


def speaks() -> bool:
    """Whether this process is the one that tells what all of them would tell alike."""
    worker = launcher.worker()
    return (worker is None or worker.rank == 0) and not launcher.is_scheduler()


def check(arguments: argparse.Namespace) -> None:
    """Faults of options and launcher together.

    Raises:
        UserError: with the command that would do.
    """
    worker = launcher.worker()
    shared = worker is not None and worker.size > 1
    if shared and arguments.dry_run:
        raise UserError("--dry_run needs no msrun: all devices would say the same")
    if shared and arguments.latents_in:
        raise UserError("--latents_in is one file: it needs no msrun")
    if arguments.guidance_devices == 1 or arguments.dry_run or launcher.is_scheduler():
        return
    if worker is None:
        raise UserError(
            "--guidance_devices=2 needs two processes: msrun --worker_num=2 --local_worker_num=2 "
            "--join=True python image_to_video.py …"
        )
    if worker.size != 2:
        raise UserError(
            f"--guidance_devices=2 needs two workers of msrun, there {'is' if worker.size == 1 else 'are'} "
            f"{worker.size}: several videos are shared out without it"
        )


def do_part(arguments: argparse.Namespace, work: Callable[..., int]) -> int:
    """This process's part, or all, of work(arguments, member=None, second=False); the exit status.

    member: `gm.sharing.member.Member` that takes videos from a shared list. second: of two devices that make each
    video together, which says nothing.
    """
    worker, member = launcher.worker(), joined()
    if arguments.guidance_devices > 1:
        return _one_of_two(arguments, work, worker)
    if launcher.is_scheduler():  # msrun starts one beside its workers, which need none here
        return 0
    if worker and worker.size > 1:
        return _share_out(arguments, worker)
    if member is None:
        return work(arguments)
    try:
        return work(arguments, member)
    except UserError as error:
        member.fault(str(error))
        return 1


def _one_of_two(arguments: argparse.Namespace, work: Callable[..., int], worker: Worker | None) -> int:
    """`work` as one of the two devices that make each video together, or as what brings them together."""
    if launcher.is_scheduler():
        from gm import ops
        from gm.ops import parallel

        ops.set_device(arguments.device_target)
        parallel.init()  # returns when they have ended
        return 0
    try:
        return work(arguments, second=worker is not None and worker.rank == 1)
    except UserError:
        if worker is not None and worker.rank:
            time.sleep(_LAST_WORDS)
        raise


def _share_out(arguments: argparse.Namespace, worker: Worker) -> int:
    """The part of one of several processes that a launcher started."""
    from gm.data import outputs
    from gm.data.images import list_images

    if worker.rank:
        return supervise(worker, arguments.output_dir)
    images = list_images(arguments.image)
    outputs.make_folder(arguments.output_dir)
    return supervise(worker, arguments.output_dir, images, arguments.num_videos)
