"""How one video comes to be, from its name to its files: the events of `gm.job.Job`, stage by stage."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from gm import ops, segments
from gm.console import peak_memory, timed
from gm.data import outputs, videos
from gm.data.rescue import Rescue
from gm.data.watermark import embed_watermark
from gm.diffusion.preview import Preview
from gm.errors import UserError
from gm.events import Compiling, Decoding, Encoding, Loading, Sampling, Started, Written
from gm.files import require_space
from gm.latents_file import GivenLatents
from gm.pipeline import PARTS
from gm.results import fingerprint, write_results


class Making:
    """The videos of a `gm.job.Job`, one by one."""

    def __init__(self, job):
        self.job, self.settings, self.model, self.pipeline = job, job.settings, job.model, job.pipeline

    def video(self, source, options, number):
        """Make one video: a generator of events. source: `gm.picture.Picture` or `GivenLatents`; number: of it among
        those of its picture, from 0."""
        frames = segments.length(self.job.options, self.settings, getattr(source, "frames", None))
        with self._base(source.path, frames * 3 * source.size[0] * source.size[1]) as base:
            yield Started(base, options.seed, number + 1, self.settings.num_videos)
            yield from self._make(base, source, options)

    @contextlib.contextmanager
    def _base(self, path, size):
        """A name for the files of one video, of `size` bytes of pixels."""
        base = outputs.next_base(self.settings.output_dir, path.stem)
        try:
            require_space(base.parent, size)
            yield base
        finally:
            outputs.give_back(base)

    def _make(self, base, source, options):
        parts, seconds = segments.options_of(options, self.settings), {}
        chain = segments.Chain(getattr(source, "image", None), self.job.overlap)
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
        kind = self.settings.output_type
        frames = None if kind == "latents" else chain.frames
        with timed(seconds, "writing"):
            files = write_results(base, kind, chain.latents, frames, fps, self.model.about, self.job.pictures(source))
            written = {what: fingerprint(path) for what, path in files.items()}
        record = {"video": files["video"].name, **self.job.told(source, options), "frames": len(chain.latents),
                  "output_fps": fps, "seconds": seconds, "peak_memory_bytes": peak_memory(), "files": written}
        files["json"] = Path(f"{base}.json")
        outputs.write_json(record, files["json"])
        yield Written(files["video"], files, record, seconds, frames)

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
        seam = videos.to_uint8(pixels[-min(self.job.overlap, len(pixels)):][:1])[0]
        return videos.to_uint8(pixels, embed_watermark if self.settings.watermark else None), seam
