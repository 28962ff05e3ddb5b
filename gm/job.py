"""From a picture's file to the files of its videos: what the command line and the page both do, without showing it.

    model = Model(ModelSettings(config, checkpoint))  # once: nothing is loaded yet, but the checkpoint is checked
    job = Job(model, VideoSettings(sampling={"seed": 7}, output_dir="outputs"))
    for event in job.run(job.plan("photo.jpg")):
        ...

`Job.run` is a generator of what `gm.events` describes; for each video, in this order:

    Started                     the names of its files are reserved
    Loading "clip", then "condition_encoder"    first with done 0, then after each tensor; only what is not there yet
    Encoding
    Loading "unet"
    Compiling                   in graph mode, before the first step of a size that is new
    Sampling                    done 0, then after each step
    Loading "decoder"; Decoding done 0, then after each chunk of frames        (not for latents)
    Written

From latents that an earlier run wrote (`read_latents` in place of `plan`) it begins with the decoder.

`Warned` may come before any of them. Work happens between the events, in the caller's thread, so that whoever has
enough of it calls close() on the generator, or lets it go: the video's memory is free then, the model stays loaded
(with low_memory it goes too), and no file is left. UserError where a picture, a setting or a file cannot be.

With skip_done `Skipped` stands for all events of a video that is there already.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gm import compile_cache, memory, ops, segments, video_memory
from gm.batches import Batches, Video
from gm.data import calibration, outputs, videos
from gm.diffusion.guidance import within
from gm.diffusion.schedules import SCHEDULES
from gm.errors import EndsAll, UserError, memory_faults
from gm.events import Failed, Skipped, Warned
from gm.latents_file import GivenLatents, read_latents
from gm.making import Making
from gm.options import Options
from gm.parts import PARTS
from gm.picture import plan
from gm.settings import recorded

if TYPE_CHECKING:
    from gm.done import Done
    from gm.estimate import Need
    from gm.events import Event
    from gm.loaded import Model
    from gm.options import VideoSettings
    from gm.picture import Picture

# Of the options, what sampling alone needs.
_SAMPLED = {f.name for f in fields(Options)} - {"num_frames", "decode_chunk_size", "decode_tile"}


class Job:
    """What is to be made of pictures with one model.

    Args:
        model: `gm.loaded.Model`. settings: `gm.options.VideoSettings`. command: what the user called, for the JSON
            file.

    Raises:
        UserError: sampling settings that cannot be, or an output folder that cannot be written to.
    """

    def __init__(self, model: Model, settings: VideoSettings, command: str | None = None) -> None:
        self.model, self.settings, self.command = model, settings, command
        self.pipeline = model.pipeline
        self.options = self.pipeline.options(**settings.sampling)
        self.overlap = segments.overlap_of(self.options, settings)
        segments.options_of(self.options, settings)  # says what cannot be
        replace(self.options, seed=self.options.seed + settings.num_videos - 1)  # the last one's
        self._waiting: Batches[Video] = Batches(settings.batch)
        outputs.make_folder(settings.output_dir)
        if model.pair is not None:
            model.pair.meet_in(settings.output_dir)
        if self.options.num_frames == 1 and (settings.end_image or settings.loop):
            raise UserError(
                "--end_image and --loop need a last frame beside the first: give --SVD.num_frames=2 or more"
            )
        self._check_guidance()
        self._check_pair()
        if settings.output_type in ("mp4", "gif"):
            videos.try_out(settings.output_type, settings.output_fps or self.options.fps, settings.output_dir)

    def _check_guidance(self) -> None:
        options = self.options
        low, high = options.guidance_sigma_min, options.guidance_sigma_max
        sigmas = SCHEDULES[options.schedule](options.sampling_steps)[:-1]
        if options.guided() and not within(sigmas, low, high).any():
            raise UserError(
                f"no noise level of the {len(sigmas)} steps, from {sigmas[-1]:g} to {sigmas[0]:g}, lies within "
                "--SVD.guidance_sigma_min and --SVD.guidance_sigma_max: guidance would never apply; to turn it off set "
                "both scales to 1"
            )

    def _check_pair(self) -> None:
        options = self.options
        if self.model.settings.guidance_devices == 1:
            return
        if not options.guided():
            raise UserError("--guidance_devices=2: there is no guidance to be shared, both scales are 1; leave it out")
        limited = (options.guidance_sigma_min, options.guidance_sigma_max) != (None, None)
        if options.cache_interval > 1 and limited:
            raise UserError(
                "--guidance_devices=2 with DeepCache (--SVD.cache_interval): what is kept of one half "
                "would be taken for the other where guidance begins or ends: leave "
                "--SVD.guidance_sigma_min and --SVD.guidance_sigma_max out"
            )

    def warnings(self) -> list[str]:
        """Sentences that the user should see, the model's included."""
        each = [warning for one in segments.options_of(self.options, self.settings) for warning in one.warnings()]
        fps = self.settings.output_fps or self.options.fps
        if self.settings.output_type == "gif" and fps > videos.GIF_MAX_FPS:
            each.append(f"a GIF of {fps:g} frames per second plays at {videos.GIF_MAX_FPS:g}, as browsers do at most")
        return [*dict.fromkeys(each), *self.model.warnings(), *self._motion()[1]]

    def record(self) -> dict[str, Any]:
        """Everything that decides anything, for the JSON file: all options but those whose fields say otherwise."""
        return {
            **self.model.record(),
            **recorded(self.options),
            **recorded(self.settings),
            "output_fps": self.settings.output_fps or self.options.fps,
            "overlap": self.overlap if self.settings.segments > 1 else None,
            "command": self.command,
        }

    def motion(self) -> list[str]:
        """Lines on what the motion bucket asks for, where the weights were trained with a scale of their own."""
        return self._motion()[0]

    def _motion(self) -> tuple[list[str], list[str]]:
        weights = self.model.settings.checkpoint, *(delta.path for delta in self.pipeline.deltas)
        return calibration.meaning(self.options.motion_bucket_id, weights)

    def plan(self, path: str | Path) -> Picture:
        """The `Picture` of a file, at the size that the settings ask for."""
        return plan(self.pipeline.config, self.settings, path)

    def read_latents(self, path: str | Path) -> GivenLatents:
        """The `GivenLatents` of a file, to be run as a `Picture` is."""
        return read_latents(self.pipeline.config, self.settings, path)

    def memory(
        self,
        size: tuple[int, int],
        low_memory: bool | None = None,
        frames: int | None = None,
        batch: int | None = None,
        **changes: Any,
    ) -> dict[str, Need]:
        """{stage: `gm.estimate.Need`} of a video of (height, width) pixels; changes: to the options; frames: of given
        latents; batch: in place of the settings'."""
        options, longer = replace(self.options, **changes), self.settings.segments > 1
        if frames is not None:
            options = replace(options, num_frames=max(frames, options.num_frames) if longer else frames)
        kinds = {
            "decoded": self.settings.output_type != "latents" or longer,
            "sampled": frames is None or longer,
            "kept": segments.length(options, self.settings, frames) if longer else 0,
            "batch": batch or self.settings.batch,
            "devices": self.model.settings.guidance_devices,
            "ends": bool(self.settings.end_image) or self.settings.loop,
        }
        return video_memory.needed(self.pipeline, size, options, low_memory, **kinds)

    def check_memory(self, size: tuple[int, int], frames: int | None = None, batch: int | None = None) -> str:
        """A sentence about the memory that a video of (height, width) pixels needs; frames, batch: as in `memory`.

        UserError where it is not there: with both numbers and what would fit. Other devices than the CPU have memory of
        their own, of which nothing is known here.
        """
        if self.settings.memory_check == "off" or ops.device() != "CPU":
            return "memory is not checked"
        batch = batch or self.settings.batch
        stages = functools.partial(self.memory, frames=frames)
        remedies = video_memory.remedies(self.pipeline, size, self.options, stages, batch)
        return memory.check(stages(size, batch=batch), remedies)

    def told(self, source: Picture | GivenLatents, options: Options) -> dict[str, Any]:
        """What the JSON file of a video of `source` says of its making."""
        told = {**self.record(), **recorded(options), "height": source.size[0], "width": source.size[1]}
        if not isinstance(source, GivenLatents):
            return {**told, "image": str(source.path.resolve()), "crop": source.crop}
        told["latents_in"] = str(source.path.resolve())
        if self.settings.segments > 1:
            return told
        # The JSON file beside them says how they were sampled.
        return {**told, "num_frames": source.frames, **dict.fromkeys(_SAMPLED)}

    def pictures(self, source: Picture | GivenLatents) -> dict[str, np.ndarray]:
        """{"image", perhaps "end": uint8 (h, w, 3)} that are written beside a video."""
        if isinstance(source, GivenLatents):
            return {}
        found = {"image": source.image}
        if self.settings.end_image and source.end is not None:
            found["end"] = source.end
        return found

    @functools.cached_property
    def _done(self) -> Done:
        from gm.done import Done

        return Done(self.settings.output_dir)

    def look(
        self, source: Picture | GivenLatents, numbers: Iterable[int] | None = None
    ) -> list[tuple[int, Options, Path | None, str | None]]:
        """[(number, its options, path of the video that is there or None, why what is there will not do or None)]."""
        found, first, count = [], self.options, self.settings.num_videos
        if isinstance(source, GivenLatents):
            count = 1
            if self.settings.sampling.get("fps") is None:  # what continues them goes on at their speed
                first = first.changed(fps=source.told_fps)
        for number in range(count) if numbers is None else numbers:
            options, there, why = replace(first, seed=first.seed + number), None, None
            if self.settings.skip_done:
                told = {**self.told(source, options), "output_fps": self.settings.output_fps or options.fps}
                there, why = self._done.look(told, self.settings.output_type, self.pictures(source))
            found.append((number, options, there, why))
        return found

    def run(self, source: Picture | GivenLatents, numbers: Iterable[int] | None = None) -> Generator[Event, None, None]:
        """Make all videos of a `Picture`, or those of these numbers, from 0, or the one of `GivenLatents`: a generator
        of `gm.events`."""
        yield from self.gather(source, numbers)
        yield from self.finish()

    def gather(
        self, source: Picture | GivenLatents, numbers: Iterable[int] | None = None
    ) -> Generator[Event, None, None]:
        """`run`, but where several are made at once, what does not fill a batch waits for the next of its size, or for
        `finish`. `Failed` are those of a batch that cannot be made."""
        given = source.frames if isinstance(source, GivenLatents) else None
        if given is not None and self.settings.segments > 1 and given <= self.overlap:
            raise UserError(
                f"{source.path}: {given} frames cannot be continued with --overlap={self.overlap}: it must be less"
            )
        found = self.look(source, numbers)
        for number, _, there, why in found:
            if there:
                yield Skipped(there, source.path, number)
            elif why:
                yield Warned(f"made anew, as what is there will not do: {why}")
        trained, missing = self.pipeline.config.sampling, not all(there for _, _, there, _ in found)
        if given is None and source.size != (trained.height, trained.width) and missing:
            yield Warned(
                f"the model was trained at {trained.height}x{trained.width} (height x width); other sizes can "
                "look worse"
            )
        for number, options, there, _ in found:
            video = Video(source, options, number)
            batch = [] if there else [video] if given is not None else self._waiting.add(source.size, video)
            if batch:
                yield from self._made(batch)

    def finish(self) -> Generator[Event, None, None]:
        """Make what waits: a generator of events."""
        for batch in self._waiting.rest():
            yield from self._made(batch)

    def _made(self, batch: list[Video]) -> Generator[Event, None, None]:
        """Make a batch, or one by one what fails at once. Behind one that cannot be made no kept graphs are taken: its
        own were left out, and the next one would be handed them."""
        for event in self._each(batch):
            if isinstance(event, Failed):
                compile_cache.stop()
            yield event

    def _each(self, batch: list[Video]) -> Generator[Event, None, None]:
        if self.settings.batch == 1 or isinstance(batch[0].source, GivenLatents):
            yield from self._tried(batch)
            return
        try:
            self.check_memory(batch[0].source.size, batch=len(batch))
        except UserError as error:
            yield from (Failed(video.source.path, video.number, str(error)) for video in batch)
            return
        try:
            yield from self._tried(batch)
        except EndsAll:
            raise
        except UserError as error:
            if len(batch) == 1:
                yield Failed(batch[0].source.path, batch[0].number, str(error))
                return
            compile_cache.stop()  # graphs were left out
            yield Warned(f"{len(batch)} videos failed together and are made one by one: {error}")
            for video in batch:
                yield from self._each([video])

    def _tried(self, batch: list[Video]) -> Generator[Event, None, None]:
        source = batch[0].source
        frames = getattr(source, "frames", None)
        self.check_memory(source.size, frames, len(batch))
        needed = memory.advice(self.memory(source.size, frames=frames, batch=len(batch)))
        try:
            with memory_faults(needed):
                yield from Making(self).videos(batch)
        except UserError as error:
            if self.model.pair is None:
                raise
            raise EndsAll(
                f"{source.path}: {error}\nThe other device would wait: --skip_done goes on with the rest"
            ) from error
        finally:
            if self.model.settings.low_memory:
                self.pipeline.release(*PARTS)
