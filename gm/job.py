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
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np

from gm import memory, ops, video_memory
from gm.console import peak_memory, timed, versions
from gm.data import calibration, outputs, videos
from gm.data.rescue import Rescue
from gm.data.watermark import embed_watermark
from gm.diffusion.preview import Preview
from gm.errors import UserError, memory_faults
from gm.events import Compiling, Decoding, Encoding, Loading, Sampling, Started, Warned, Written
from gm.files import require_space
from gm.latents_file import GivenLatents, read_latents
from gm.options import Options
from gm.picture import plan
from gm.pipeline import PARTS, ImageToVideo
from gm.precision import level
from gm.results import made_by, write_results

# Settings that only go through the networks as numbers, or not at all: compiled graphs do not depend on them.
_NUMBERS = {"seed", "fps", "motion_bucket_id", "noise_aug_strength", "config", "checkpoint", "base", "use_ema", "delta",
            "output_fps", "watermark", "command", "end_image", "loop"}

# Of the options, what sampling alone needs.
_SAMPLED = {f.name for f in fields(Options)} - {"num_frames", "decode_chunk_size", "decode_tile"}


class Model:
    """A pipeline on its device, to be kept for many jobs.

    Args:
        settings: `gm.options.ModelSettings`.

    Raises:
        UserError: a config, checkpoint or device that cannot be.
    """

    def __init__(self, settings):
        self.settings = settings
        ops.set_device(settings.device_target, settings.mode, settings.fast_float32)
        self.attention_scores = ops.set_memory_budget(settings.memory_budget)
        self.pipeline = ImageToVideo(
            settings.config, settings.checkpoint, settings.delta, level(settings.amp_level, settings.dtype),
            settings.low_memory, settings.base, settings.use_ema,
        )
        self.compiled = set()  # shapes of videos that the graph was compiled for
        # What its videos' metadata say.
        self.about = made_by(Path(settings.config).stem, Path(settings.checkpoint).name)
        self.cached = False  # whether the graphs are there from an earlier run

    def warnings(self):
        """Sentences that the user should see."""
        found = []
        if self.settings.amp_level == "O2" and ops.device() == "CPU":
            found.append("CPUs compute float16 slowly and with more memory: O2 is for NPUs and GPUs")
        return found + self.pipeline.warnings

    def record(self):
        """What of the model decides the result, for the JSON file."""
        settings = self.settings
        return {
            "config": str(settings.config),
            "checkpoint": str(Path(settings.checkpoint).resolve()),
            "base": settings.base and str(Path(settings.base).resolve()),
            "use_ema": settings.use_ema,
            "delta": self.pipeline.deltas.record(),
            "amp_level": settings.amp_level,
            "dtype": settings.dtype,
            "fast_float32": settings.fast_float32,
            "mode": settings.mode,
            "low_memory": settings.low_memory,
            "attention_scores": self.attention_scores,
            "device_target": ops.device(),
            "versions": versions(),
        }


class Job:
    """What is to be made of pictures with one model.

    Args:
        model: `Model`. settings: `gm.options.VideoSettings`. command: what the user called, for the JSON file.

    Raises:
        UserError: sampling settings that cannot be, or an output folder that cannot be written to.
    """

    def __init__(self, model, settings, command=None):
        self.model, self.settings, self.command = model, settings, command
        self.pipeline = model.pipeline
        known = [f.name for f in fields(Options)]
        unknown = [name for name in settings.sampling if name not in known]
        if unknown:
            raise UserError(f"sampling has no {', '.join(unknown)}: there are {', '.join(known)}")
        self.options = self.pipeline.options(**settings.sampling)
        outputs.make_folder(settings.output_dir)
        if self.options.cache_interval > 1 and (settings.end_image or settings.loop):
            raise UserError("with --end_image or --loop two films take turns, which DeepCache cannot tell from each "
                            "other: leave --SVD.cache_interval out")
        if settings.output_type in ("mp4", "gif"):
            videos.try_out(settings.output_type, settings.output_fps or self.options.fps, settings.output_dir)

    def warnings(self):
        """Sentences that the user should see, the model's included."""
        return self.options.warnings() + self.model.warnings()

    def record(self):
        """Everything that decides the result, for the JSON file."""
        return {
            **self.model.record(), **asdict(self.options), "output_fps": self.settings.output_fps or self.options.fps,
            "watermark": self.settings.watermark, "command": self.command, "loop": self.settings.loop,
            "end_image": self.settings.end_image and str(Path(self.settings.end_image).resolve()),
        }

    def motion(self):
        """Lines on what the motion bucket asks for, where the weights were trained with a scale of their own."""
        weights = self.model.settings.checkpoint, *(delta.path for delta in self.pipeline.deltas)
        return calibration.meaning(self.options.motion_bucket_id, weights)

    def graph_conditions(self, paths):
        """For `gm.compile_cache`: every setting but the numbers that only go through the networks."""
        sizes = []
        for path in paths:
            with contextlib.suppress(UserError):  # it is told when its turn comes
                sizes += [self.plan(path).image.shape] * self.settings.num_videos
        if not self.model.settings.low_memory:  # which makes the networks anew for every video
            sizes = list(dict.fromkeys(sizes))
        settings = {name: value for name, value in self.record().items() if name not in _NUMBERS}
        decoded = self.settings.output_type != "latents"
        kernels = ops.compiled_library()
        return [settings, self.pipeline.config.model, kernels, decoded, sizes, sorted(self.pipeline.narrow())]

    def plan(self, path):
        """The `Picture` of a file, at the size that the settings ask for."""
        return plan(self.pipeline.config, self.settings, path)

    def read_latents(self, path):
        """The `GivenLatents` of a file, to be run as a `Picture` is."""
        return read_latents(self.pipeline.config, self.settings, path)

    def memory(self, size, low_memory=None, frames=None, **changes):
        """{stage: `gm.estimate.Need`} of a video of (height, width) pixels; changes: to the options; frames: of given
        latents, which are decoded alone."""
        if frames is not None:
            changes["num_frames"] = frames
        kinds = {"decoded": self.settings.output_type != "latents", "sampled": frames is None}
        return video_memory.needed(self.pipeline, size, replace(self.options, **changes), low_memory, **kinds)

    def check_memory(self, size, frames=None):
        """A sentence about the memory that a video of (height, width) pixels needs; frames as in `memory`.

        UserError where it is not there: with both numbers and what would fit. Other devices than the CPU have memory of
        their own, of which nothing is known here.
        """
        if self.settings.memory_check == "off" or ops.device() != "CPU":
            return "memory is not checked"
        stages = functools.partial(self.memory, frames=frames)
        return memory.check(stages(size), video_memory.remedies(self.pipeline, size, self.options, stages))

    def run(self, source):
        """Make all videos of a `Picture`, or the one of `GivenLatents`: a generator of `gm.events`."""
        if isinstance(source, GivenLatents):
            yield from self._run_given(source)
            return
        picture = source
        trained = self.pipeline.config.sampling
        if picture.image.shape[:2] != (trained.height, trained.width):
            yield Warned(f"the model was trained at {trained.height}x{trained.width} (height x width); other sizes can "
                         "look worse")
        self.check_memory(picture.image.shape[:2])
        needed = memory.advice(self.memory(picture.image.shape[:2]))
        try:
            with memory_faults(needed):
                for k in range(self.settings.num_videos):
                    yield from self._video(picture, replace(self.options, seed=self.options.seed + k), k)
        finally:
            if self.model.settings.low_memory:
                self.pipeline.release(*PARTS)

    def _run_given(self, given):
        options = replace(self.options, num_frames=len(given.latents))
        self.check_memory(given.size, options.num_frames)
        told = {"latents_in": str(given.path.resolve()), "height": given.size[0], "width": given.size[1],
                **dict.fromkeys(_SAMPLED)}  # the JSON file beside them says how they were sampled
        fps = self.settings.output_fps or given.fps
        try:
            with memory_faults(memory.advice(self.memory(given.size, frames=options.num_frames))), \
                    self._base(given.path, options.num_frames * 3 * given.size[0] * given.size[1]) as base:
                yield Started(base, options.seed, 1, 1)
                yield from self._finish(base, options, given.latents, {}, told, fps=fps)
        finally:
            if self.model.settings.low_memory:
                self.pipeline.release(*PARTS)

    @contextlib.contextmanager
    def _base(self, path, size):
        """A name for the files of one video, of `size` bytes of pixels."""
        base = outputs.next_base(self.settings.output_dir, path.stem)
        try:
            require_space(base.parent, size)
            yield base
        finally:
            outputs.give_back(base)

    def _video(self, picture, options, k):
        with self._base(picture.path, options.num_frames * picture.image.nbytes) as base:
            yield Started(base, options.seed, k + 1, self.settings.num_videos)
            yield from self._make(picture, options, base)

    def _make(self, picture, options, base):
        seconds = {}
        with timed(seconds, "conditioning"):
            yield from self._load("clip", "condition_encoder")
            yield Encoding()
            conditioning, end = self._condition(picture, options)
        with timed(seconds, "sampling"):
            latents = yield from self._sample(picture.image, options, conditioning, end)
        if not np.isfinite(latents).all():
            raise UserError("what was sampled holds NaN or infinite values; if you run in float16, try --amp_level=O0")
        told = {"image": str(picture.path.resolve()), "height": picture.image.shape[0],
                "width": picture.image.shape[1], "crop": picture.crop}
        pictures = {"image": picture.image, **({"end": picture.end} if self.settings.end_image else {})}
        yield from self._finish(base, options, latents, seconds, told, pictures)

    def _finish(self, base, options, latents, seconds, told, pictures=None, fps=None):
        """Decode and write. told: what the JSON file says of the source. pictures: see `write_results`. fps: of the
        file, None for what the settings say."""
        frames, fps = None, fps or self.settings.output_fps or options.fps
        with Rescue(base, latents) as rescue:
            if self.settings.output_type != "latents":
                with timed(seconds, "decoding"):
                    rescue.frames = frames = yield from self._decode(latents, options)
            with timed(seconds, "writing"):
                files = write_results(base, self.settings.output_type, latents, frames, fps, self.model.about,
                                      pictures)
        record = {"video": files["video"].name, **self.record(), **asdict(options), **told, "output_fps": fps,
                  "seconds": seconds, "peak_memory_bytes": peak_memory()}
        files["json"] = Path(f"{base}.json")
        outputs.write_json(record, files["json"])
        yield Written(files["video"], files, record, seconds, frames)

    def _load(self, *parts):
        for part in parts:
            for done, total in self.pipeline.load(part):
                yield Loading(PARTS[part], done, total)

    def _condition(self, picture, options):
        """`Conditioning` of the picture and of what the video ends with, or None."""
        other = picture.end is not None and picture.end is not picture.image
        conditioning = self.pipeline.condition(picture.image, options, keep=other)
        if other:
            return conditioning, self.pipeline.condition(picture.end, options)
        return conditioning, None if picture.end is None else conditioning

    def _sample(self, image, options, conditioning, end=None):
        """Returns the latents of one video. end: `Conditioning` of the picture that it ends with."""
        yield from self._load("denoiser")
        shape = (image.shape, options.num_frames)
        if self.model.settings.mode == ops.GRAPH_MODE and not self.model.cached and shape not in self.model.compiled:
            yield Compiling()
        preview = Preview(image, conditioning.concat[0])
        yield Sampling(0, options.sampling_steps)
        for step in self.pipeline.steps(image, options, conditioning, end=end):
            self.model.compiled.add(shape)
            latents = step.latents
            yield Sampling(step.index, step.total, step.sigma, lambda step=step: preview(step.denoised))
        return latents

    def _decode(self, latents, options):
        """Returns the frames uint8 (t, h, w, 3) of one video."""
        yield from self._load("decoder")
        chunks, done = [], 0
        yield Decoding(done, options.num_frames)
        for pixels in self.pipeline.decode_chunks(latents, options):
            chunks.append(pixels)
            done += len(pixels)
            yield Decoding(done, options.num_frames)
        pixels = np.concatenate(chunks)
        return videos.to_uint8(pixels, embed_watermark if self.settings.watermark else None)
