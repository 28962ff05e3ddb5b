"""Turn a picture or a folder of them into videos with Stable Video Diffusion.

python image_to_video.py --version=svd --image=photo.jpg

With no more than --image it uses svd_tiny, a small model that comes with the
program. The options of the original's simple_video_sample.py work as well.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

import collections
import functools
import json
import shlex
import sys
import time
from dataclasses import fields
from pathlib import Path

from gm import compile_cache, places
from gm.checkpoint.published import TINY, VERSIONS, checkpoints_folder, find_checkpoint
from gm.console import peak_memory, show
from gm.errors import EndsAll, UserError, run_cli
from gm.events import Failed
from gm.inference_options import make_parser
from gm.memory import parse_size, report
from gm.options import ModelSettings, Options, VideoSettings
from gm.sharing import launcher
from gm.sharing.member import joined
from gm.sharing.supervisor import supervise

SHOWN_FAILURES = 20  # in the summary at the end
_LAST_WORDS = 20  # seconds that the first of two devices has to say what both fail by, before the launcher ends all
_NOT_WITH_LATENTS = ("image", "height", "width", "end_image", "loop", "skip_done")


def main(argv=None):
    worker, member = launcher.worker(), joined()
    first = (worker is None or worker.rank == 0) and not launcher.is_scheduler()
    try:
        arguments = make_parser(__doc__).parse_args(argv)
        check_arguments(arguments)
        check_devices(arguments, worker)
    except UserError:
        if first:
            raise
        return 0  # the first one says so
    if arguments.guidance_devices > 1:
        return make_pair(arguments, worker)
    if launcher.is_scheduler():  # msrun starts one beside its workers, which need none here
        return 0
    if worker and worker.size > 1:
        return share_out(arguments, worker)
    if member is None:
        return work(arguments)
    try:
        return work(arguments, member)
    except UserError as error:
        member.fault(str(error))
        return 1


def check_devices(arguments, worker):
    """Faults of options and launcher together."""
    shared = worker is not None and worker.size > 1
    if shared and arguments.dry_run:
        raise UserError("--dry_run needs no msrun: all devices would say the same")
    if shared and arguments.latents_in:
        raise UserError("--latents_in is one file: it needs no msrun")
    if arguments.guidance_devices == 1 or arguments.dry_run or launcher.is_scheduler():
        return
    if worker is None:
        raise UserError("--guidance_devices=2 needs two processes: msrun --worker_num=2 --local_worker_num=2 "
                        "--join=True python image_to_video.py …")
    if worker.size != 2:
        raise UserError(f"--guidance_devices=2 needs two workers of msrun, there {'is' if worker.size == 1 else 'are'} "
                        f"{worker.size}: several videos are shared out without it")


def make_pair(arguments, worker):
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


def share_out(arguments, worker):
    """The part of one of several processes that a launcher started: the exit status."""
    from gm.data import outputs
    from gm.data.images import list_images

    if worker.rank:
        return supervise(worker, arguments.output_dir)
    images = list_images(arguments.image)
    outputs.make_folder(arguments.output_dir)
    return supervise(worker, arguments.output_dir, images, arguments.num_videos)


def work(arguments, member=None, second=False):
    """What the options ask for, or a `gm.sharing.member.Member`'s share of it: the exit status. second: of two devices
    for each video, which says nothing."""
    compile_cache.quiet()
    from gm.data.images import list_images  # after parsing: --help needs no MindSpore

    first = not second and (member is None or member.rank == 0)  # what all devices would say alike
    if member is None:
        images = [Path(arguments.latents_in)] if arguments.latents_in else list_images(arguments.image)
    choose_model(arguments, first)
    job = make_job(arguments)
    read = job.read_latents if arguments.latents_in else job.plan
    for line in (*job.model.pipeline.sources(), *job.motion()) if first else ():
        print(line)
    for warning in job.warnings() if first else ():
        print(f"warning: {warning}", file=sys.stderr)
    if arguments.dry_run:
        print(json.dumps(job.record(), indent=2, default=str))
        for_each(images, lambda path: check(job, read(path)), lambda: "could be done")
        return 0
    place, asked = compile_cache.chosen(arguments.compile_cache, **job.record())
    if member is None:
        conditions = functools.partial(job.graph_conditions, images)
    else:
        conditions = job.graph_conditions_of_any
        if place and conditions() is None:  # nobody knows which device will compile what
            if asked and first:
                print("warning: --compile_cache is not used: several devices need --height and --width with it, and no "
                      "--low_memory", file=sys.stderr)
            place = None
    if place and arguments.guidance_devices > 1:
        if asked and first:
            print("warning: --compile_cache is not used with --guidance_devices", file=sys.stderr)
        place = None
    with compile_cache.compile_cache(place, conditions, asked) as found:
        job.model.cached = found
        if member is None:
            run_all(job, images, read, second)
        else:
            run_share(job, member)
    return 0


def make_job(arguments):
    """The `gm.job.Job` that the options ask for."""
    from gm.job import Job
    from gm.loaded import Model

    chosen = vars(arguments)

    def those_of(kind):
        return {f.name: chosen[f.name] for f in fields(kind) if f.name in chosen}

    settings = VideoSettings(those_of(Options), **those_of(VideoSettings))
    return Job(Model(ModelSettings(**those_of(ModelSettings))), settings, shlex.join(sys.argv))


def run_all(job, paths, read, silent=False):
    """Every picture, or file of latents, as `read` gives it; UserError at the end if one could not be done."""

    def shown(events):
        failed = {}
        told = noted(events, failed)
        collections.deque(told, maxlen=0) if silent else show(told)
        return failed

    def make(path):
        source = read(path)
        if not silent:
            print(f"{path}: {source.change}")
        return shown(job.gather(source))

    result = "done, peak memory {:.1f} GB".format
    for_each(paths, make, lambda: result(peak_memory() / 1e9), lambda: shown(job.finish()), silent)


def noted(events, failed):
    """The events; what failed is put into `failed`, {path: why}."""
    for event in events:
        if isinstance(event, Failed):
            failed.setdefault(event.path, event.text)
        yield event


def run_share(job, member):
    """What a device can get hold of, video by video; what fails is told and stops nothing."""
    for path, numbers in member.videos():
        try:
            source = job.plan(path)
            if 0 in numbers:
                print(f"{member.name}: {path}: {source.change}")
            show(member.noted(job.gather(source, numbers)), f"{member.name}: ")
        except UserError as error:
            compile_cache.stop()
            print(f"{member.name}: error: {error}", file=sys.stderr)
            member.failed(path, numbers, str(error))
    show(member.noted(job.finish()), f"{member.name}: ")


def check(job, source):
    """For --dry_run: what would be done with one source, and the memory of it; UserError where the run would fail."""
    size, frames = source.size, getattr(source, "frames", None)
    print(f"{source.path}: {source.change}\nmemory, estimated:\n{report(job.memory(size, frames=frames))}")
    print(job.check_memory(size, frames))


def for_each(images, function, result, finish=dict, silent=False):
    """function(path) of every picture and in the end finish(), both of which may return {path: why} of what failed;
    then a line of how many have the result; UserError if one could not be done."""
    failures = {}
    for path in (*images, None):
        try:
            failed = (finish() if path is None else function(path)) or {}
        except UserError as error:
            if len(images) == 1 or isinstance(error, EndsAll):
                raise
            failed = {path: str(error)}
            if not silent:
                print(f"error: {error if str(path) in str(error) else f'{path}: {error}'}", file=sys.stderr)
        for place, why in failed.items():
            compile_cache.stop()
            failures.setdefault(place, why if str(place) in why else f"{place}: {why}")
    if failures and len(images) == 1:
        raise UserError(*failures.values())
    if not silent:
        print(f"{len(images) - len(failures)} of {len(images)} pictures {result()}")
    if failures:
        shown = list(failures.values())[:SHOWN_FAILURES]
        if len(failures) > len(shown):
            shown.append(f"… and {len(failures) - len(shown)} more, each told above")
        raise UserError("\n  ".join([f"{len(failures)} of {len(images)} pictures failed:", *shown]))


def check_arguments(arguments):
    """Faults that need neither config nor checkpoint; fills in what was said in other words."""
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
    if arguments.memory_budget is not None:
        arguments.memory_budget = parse_size(arguments.memory_budget)
    if arguments.compile_cache not in (None, "off") and arguments.mode == 1:
        raise UserError("--compile_cache: --mode=1 compiles nothing, give one of them")


def choose_model(arguments, say=True):
    """Fill in the small model where no model is named, and the files of the model where none are."""
    if not arguments.version and not arguments.config:
        arguments.version = TINY
        if say:
            print(f"no --version: using {TINY}, the small model that comes with the program; --help names the others")
    if not arguments.config:
        arguments.config = str(places.CONFIGS / f"{arguments.version}.yaml")
    if not arguments.checkpoint:
        folder = checkpoints_folder(arguments.checkpoints_dir)
        arguments.checkpoint = str(find_checkpoint(Path(arguments.config).stem, folder))


if __name__ == "__main__":
    run_cli(main)
