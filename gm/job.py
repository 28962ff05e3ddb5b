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

from gm import memory, ops, segments, video_memory
from gm.console import peak_memory, timed
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
from gm.pipeline import PARTS
from gm.results import write_results

# Settings that only go through the networks as numbers, or not at all: compiled graphs do not depend on them.
_NUMBERS = {"seed", "fps", "motion_bucket_id", "noise_aug_strength", "config", "checkpoint", "base", "use_ema", "delta",
            "output_fps", "watermark", "command", "end_image", "segment_motion", "segment_fps"}

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

    def __init__(self, model, settings, command=None):
        self.model, self.settings, self.command = model, settings, command
        self.pipeline = model.pipeline
        known = [f.name for f in fields(Options)]
        unknown = [name for name in settings.sampling if name not in known]
        if unknown:
            raise UserError(f"sampling has no {', '.join(unknown)}: there are {', '.join(known)}")
        self.options = self.pipeline.options(**settings.sampling)
        self.overlap = segments.overlap_of(self.options, settings)
        segments.options_of(self.options, settings)  # says what cannot be
        outputs.make_folder(settings.output_dir)
        if self.options.cache_interval > 1 and (settings.end_image or settings.loop):
            raise UserError("with --end_image or --loop two films take turns, which DeepCache cannot tell from each "
                            "other: leave --SVD.cache_interval out")
        if settings.output_type in ("mp4", "gif"):
            videos.try_out(settings.output_type, settings.output_fps or self.options.fps, settings.output_dir)

    def warnings(self):
        """Sentences that the user should see, the model's included."""
        return self.options.warnings() + self.model.warnings() + self._motion()[1]

    def record(self):
        """Everything that decides the result, for the JSON file."""
        return {
            **self.model.record(), **asdict(self.options), "output_fps": self.settings.output_fps or self.options.fps,
            "watermark": self.settings.watermark, "command": self.command, "loop": self.settings.loop,
            "end_image": self.settings.end_image and str(Path(self.settings.end_image).resolve()),
            "segments": self.settings.segments, "overlap": self.overlap if self.settings.segments > 1 else None,
            "segment_motion": self.settings.segment_motion, "segment_fps": self.settings.segment_fps,
        }

    def motion(self):
        """Lines on what the motion bucket asks for, where the weights were trained with a scale of their own."""
        return self._motion()[0]

    def _motion(self):
        weights = self.model.settings.checkpoint, *(delta.path for delta in self.pipeline.deltas)
        return calibration.meaning(self.options.motion_bucket_id, weights)

    def graph_conditions(self, paths):
        """For `gm.compile_cache`: every setting but the numbers that only go through the networks."""
        sizes = []
        for path in paths:
            with contextlib.suppress(UserError):  # it is told when its turn comes
                sizes += [self.plan(path).image.shape] * self.settings.num_videos * self.settings.segments
        if not self.model.settings.low_memory:  # which makes the networks anew for every video
            sizes = list(dict.fromkeys(sizes))
        settings = {name: value for name, value in self.record().items() if name not in _NUMBERS}
        done = self.settings.output_type != "latents", bool(self.settings.end_image)  # what else is computed
        narrow = sorted(self.pipeline.narrow())
        return [settings, self.pipeline.config.model, ops.compiled_library(), done, sizes, narrow]

    def plan(self, path):
        """The `Picture` of a file, at the size that the settings ask for."""
        return plan(self.pipeline.config, self.settings, path)

    def read_latents(self, path):
        """The `GivenLatents` of a file, to be run as a `Picture` is."""
        return read_latents(self.pipeline.config, self.settings, path)

    def memory(self, size, low_memory=None, frames=None, **changes):
        """{stage: `gm.estimate.Need`} of a video of (height, width) pixels; changes: to the options; frames: of given
        latents."""
        options, longer = replace(self.options, **changes), self.settings.segments > 1
        if frames is not None:
            options = replace(options, num_frames=max(frames, options.num_frames) if longer else frames)
        kinds = {"decoded": self.settings.output_type != "latents" or longer, "sampled": frames is None or longer,
                 "kept": segments.length(options, self.settings, frames) if longer else 0}
        return video_memory.needed(self.pipeline, size, options, low_memory, **kinds)

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
        given = isinstance(source, GivenLatents)
        frames = source.frames if given else None
        if given and self.settings.segments > 1 and frames <= self.overlap:
            raise UserError(f"{source.path}: {frames} frames cannot be continued with --overlap={self.overlap}: it "
                            "must be less")
        trained = self.pipeline.config.sampling
        if not given and source.size != (trained.height, trained.width):
            yield Warned(f"the model was trained at {trained.height}x{trained.width} (height x width); other sizes can "
                         "look worse")
        self.check_memory(source.size, frames)
        needed = memory.advice(self.memory(source.size, frames=frames))
        try:
            with memory_faults(needed):
                for k in range(self.settings.num_videos):
                    yield from self._video(source, replace(self.options, seed=self.options.seed + k), k)
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

    def _video(self, source, options, k):
        frames = segments.length(self.options, self.settings, getattr(source, "frames", None))
        with self._base(source.path, frames * 3 * source.size[0] * source.size[1]) as base:
            yield Started(base, options.seed, k + 1, self.settings.num_videos)
            yield from self._make(base, source, options)

    def _make(self, base, source, options):
        parts, seconds = segments.options_of(options, self.settings), {}
        chain = segments.Chain(getattr(source, "image", None), self.overlap)
        with Rescue(base) as rescue:
            if isinstance(source, GivenLatents):
                parts[0] = replace(options, num_frames=source.frames)
            for part in parts:
                latents = source.latents if isinstance(source, GivenLatents) and part is parts[0] else None
                if latents is None:
                    latents = yield from self._sampled(source, chain, part, seconds)
                chain.sampled(latents)
                rescue.latents, rescue.frames = chain.latents, None
                if self.settings.output_type != "latents" or part is not parts[-1]:
                    with timed(seconds, "decoding"):
                        chain.decoded(*(yield from self._decode(latents, part)))
                rescue.frames = chain.frames
            yield from self._finish(base, source, options, chain, seconds)

    def _finish(self, base, source, options, chain, seconds):
        """Write the files."""
        given = isinstance(source, GivenLatents)
        fps = self.settings.output_fps or (source.fps if given else None) or options.fps
        pictures = {} if given else {"image": source.image, **({"end": source.end} if self.settings.end_image else {})}
        kind = self.settings.output_type
        frames = None if kind == "latents" else chain.frames
        with timed(seconds, "writing"):
            files = write_results(base, kind, chain.latents, frames, fps, self.model.about, pictures)
        record = {"video": files["video"].name, **self.record(), **asdict(options), **self._told(source),
                  "frames": len(chain.latents), "output_fps": fps, "seconds": seconds,
                  "peak_memory_bytes": peak_memory()}
        files["json"] = Path(f"{base}.json")
        outputs.write_json(record, files["json"])
        yield Written(files["video"], files, record, seconds, frames)

    def _told(self, source):
        """What the JSON file says of the source."""
        size = {"height": source.size[0], "width": source.size[1]}
        if not isinstance(source, GivenLatents):
            return {"image": str(source.path.resolve()), **size, "crop": source.crop}
        told = {"latents_in": str(source.path.resolve()), **size}
        if self.settings.segments > 1:
            return told
        # The JSON file beside them says how they were sampled.
        return {**told, "num_frames": source.frames, **dict.fromkeys(_SAMPLED)}

    def _sampled(self, source, chain, options, seconds):
        """Returns the latents of one segment, the first or one that goes on from `chain`."""
        with timed(seconds, "conditioning"):
            yield from self._load("clip", "condition_encoder")
            yield Encoding()
            conditioning, end = self._condition(chain.image, getattr(source, "end", None), options)
        with timed(seconds, "sampling"):
            latents = yield from self._sample(chain.image, options, conditioning, end, chain.known)
        if not np.isfinite(latents).all():
            raise UserError("what was sampled holds NaN or infinite values; if you run in float16, try --amp_level=O0")
        return latents

    def _load(self, *parts):
        for part in parts:
            for done, total in self.pipeline.load(part):
                yield Loading(PARTS[part], done, total)

    def _condition(self, image, end, options):
        """`Conditioning` of the picture and of what the video ends with, or None."""
        if end is not None and end is not image:
            return self.pipeline.condition(image, options, keep=True), self.pipeline.condition(end, options)
        conditioning = self.pipeline.condition(image, options)
        return conditioning, None if end is None else conditioning

    def _sample(self, image, options, conditioning, end=None, known=None):
        """Returns the latents of one segment. end, known: see `gm.pipeline.ImageToVideo.steps`."""
        yield from self._load("denoiser")
        shape = (image.shape, options.num_frames)
        if self.model.settings.mode == ops.GRAPH_MODE and not self.model.cached and shape not in self.model.compiled:
            yield Compiling()
        preview = Preview(image, conditioning.concat[0])
        yield Sampling(0, options.sampling_steps)
        for step in self.pipeline.steps(image, options, conditioning, end=end, known=known):
            self.model.compiled.add(shape)
            latents = step.latents
            yield Sampling(step.index, step.total, step.sigma, lambda step=step: preview(step.denoised))
        return latents

    def _decode(self, latents, options):
        """Returns the frames uint8 (t, h, w, 3) of one segment, and the one that the next segment begins with, which
        never has the watermark."""
        yield from self._load("decoder")
        chunks, done = [], 0
        yield Decoding(done, options.num_frames)
        for pixels in self.pipeline.decode_chunks(latents, options):
            chunks.append(pixels)
            done += len(pixels)
            yield Decoding(done, options.num_frames)
        pixels = np.concatenate(chunks)
        seam = videos.to_uint8(pixels[-min(self.overlap, len(pixels)):][:1])[0]
        return videos.to_uint8(pixels, embed_watermark if self.settings.watermark else None), seam
