"""How videos come to be, from their names to their files: the events of `gm.job.Job`, stage by stage."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gm import ops, segments
from gm.console import peak_memory, timed
from gm.data import outputs, videos
from gm.data.rescue import Rescue
from gm.diffusion.preview import Preview
from gm.errors import UserError
from gm.events import Compiling, Decoding, Encoding, Failed, Loading, Sampling, Started, Written
from gm.files import require_space
from gm.latents_file import GivenLatents
from gm.parts import PARTS
from gm.results import fingerprint, write_results

if TYPE_CHECKING:
    from gm.batches import Video
    from gm.diffusion.conditioning import Conditioning
    from gm.events import Event
    from gm.job import Job
    from gm.options import Options
    from gm.picture import Picture


class _Begun:
    """A `gm.batches.Video` under way. seconds: of each stage, its share of what several do together."""

    def __init__(self, video: Video, base: str | Path, overlap: int) -> None:
        self.source, self.options, self.number = video
        self.base, self.rescue = base, Rescue(base)
        self.seconds: dict[str, float] = {}
        self.chain = segments.Chain(getattr(self.source, "image", None), overlap)
        self.known: np.ndarray | None = None  # latents of the frames that the segment under way begins with


class Making:
    """The videos of a `gm.job.Job`, one by one or several of one size at once."""

    def __init__(self, job: Job) -> None:
        self.job, self.settings, self.model, self.pipeline = job, job.settings, job.model, job.pipeline
        self.pair = job.model.pair
        self.writes = self.pair is None or self.pair.rank == 0

    def videos(self, batch: list[Video]) -> Iterator[Event]:
        """Make `gm.batches.Video`s of one size, sampled together: a generator of events.

        Several: what goes wrong with one of them when they are sampled is `Failed`, and the others are written.
        """
        with contextlib.ExitStack() as stack:
            begun = []
            for video in batch:
                if not self.writes:
                    begun.append(_Begun(video, "", self.job.overlap))
                    continue
                base = stack.enter_context(self._base(video.source))
                yield Started(base, video.options.seed, video.number + 1, self.settings.num_videos)
                begun.append(_Begun(video, base, self.job.overlap))
                stack.enter_context(begun[-1].rescue)
            if self.pair is not None:
                self.pair.begin(" ".join(f"{video.source.path.name} {video.options.seed}" for video in batch))
            yield from self._make(begun)

    @contextlib.contextmanager
    def _base(self, source: Picture | GivenLatents) -> Iterator[Path]:
        """A name for the files of one video, for whose pixels there is space."""
        frames = segments.length(self.job.options, self.settings, getattr(source, "frames", None))
        base = outputs.next_base(self.settings.output_dir, source.path.stem)
        try:
            require_space(base.parent, frames * 3 * source.size[0] * source.size[1])
            yield base
        finally:
            outputs.give_back(base)

    def _make(self, begun: list[_Begun]) -> Iterator[Event]:
        parts = [segments.options_of(video.options, self.settings) for video in begun]
        for k in range(self.settings.segments):
            options, first, last = [each[k] for each in parts], begun[0], k == self.settings.segments - 1
            if k == 0 and isinstance(first.source, GivenLatents):  # it is alone, see `gm.job.Job.gather`
                options, latents = [replace(options[0], num_frames=first.source.frames)], [first.source.latents]
            else:
                latents = yield from self._sampled(begun, options)
            for video, own in zip(begun, latents):
                video.chain.sampled(own)
                video.rescue.latents, video.rescue.frames = video.chain.latents, None
            for video, own, each in zip(begun, latents, options):
                yield from self._alone(video, len(begun) == 1, self._sampled_is(video, own, each, last, len(begun)))

    def _alone(self, video: _Begun, only: bool, events: Iterator[Event]) -> Iterator[Event]:
        """The events of one video after sampling; what goes wrong leaves the others of a batch as they are."""
        if only:
            yield from events
            return
        try:
            with video.rescue:
                yield from events
        except UserError as error:
            yield Failed(video.source.path, video.number, str(error))
        finally:
            video.rescue.latents = video.rescue.frames = None

    def _sampled_is(
        self, video: _Begun, latents: np.ndarray, options: Options, last: bool, batch: int
    ) -> Iterator[Event]:
        """One segment of one video is sampled: decode it, and write the video if it was the last."""
        if not np.isfinite(latents).all():
            raise UserError("what was sampled holds NaN or infinite values; if you run in float16, try --amp_level=O0")
        if last and not self.writes:
            return
        if self.settings.output_type != "latents" or not last:
            with timed(video.seconds, "decoding"):
                frames, plain = yield from self._decode(latents, options)
                video.chain.decoded(frames, None if last else plain)
        video.rescue.frames = video.chain.frames
        if last:
            yield from self._finish(video, batch)

    def _finish(self, video: _Begun, batch: int) -> Iterator[Event]:
        """Write the files."""
        source, chain, kind = video.source, video.chain, self.settings.output_type
        told = None if self.settings.sampling.get("fps") else getattr(source, "fps", None)  # of given latents
        fps = self.settings.output_fps or told or video.options.fps
        frames = None if kind == "latents" else chain.frames
        assert chain.latents is not None  # every segment was sampled
        with timed(video.seconds, "writing"):
            pictures = self.job.pictures(source)
            files = write_results(video.base, kind, chain.latents, frames, fps, self.model.about, pictures)
            written = {what: fingerprint(path) for what, path in files.items()}
        record = {
            "video": files["video"].name,
            **self.job.told(source, video.options),
            "frames": len(chain.latents),
            "output_fps": fps,
            "batch": batch,
            "seconds": video.seconds,
            "peak_memory_bytes": peak_memory(),
            "files": written,
        }
        files["json"] = Path(f"{video.base}.json")
        outputs.write_json(record, files["json"])
        del video.chain  # what it holds is free
        yield Written(files["video"], files, record, video.seconds, frames, source.path, video.number)

    def _sampled(self, begun: list[_Begun], options: list[Options]) -> Generator[Event, None, list[np.ndarray]]:
        """Returns the latents of one segment of each video, the first or one that goes on from its chain."""
        conditionings: list[Conditioning] = []
        ends: list[Conditioning | None] = []
        for video, each in zip(begun, options):
            with timed(video.seconds, "conditioning"):
                yield from self._load("clip", "condition_encoder")
                self.pipeline.load_ahead("denoiser")
                yield Encoding()
                keep = video is not begun[-1]
                image, end = video.chain.image, getattr(video.source, "end", None)
                assert image is not None  # given latents are a first segment, which is not sampled
                video.known = video.chain.known(functools.partial(self.pipeline.encode, options=each))
                latents = None if video.known is None else video.known[0]
                first, last = self._condition(image, end, each, keep, latents)
                conditionings.append(first)
                ends.append(last)
        start = time.monotonic()
        sampled = yield from self._sample(begun, options, conditionings, ends)
        for video in begun:
            seconds = (time.monotonic() - start) / len(begun)
            video.seconds["sampling"] = video.seconds.get("sampling", 0.0) + seconds
        return np.split(sampled, len(begun))

    def _load(self, *parts: str) -> Iterator[Event]:
        for part in parts:
            for done, total in self.pipeline.load(part):
                yield Loading(PARTS[part], done, total)

    def _condition(
        self, image: np.ndarray, end: np.ndarray | None, options: Options, keep: bool, latents: np.ndarray | None
    ) -> tuple[Conditioning, Conditioning | None]:
        """`Conditioning` of the picture and of what the video ends with, or None. keep, latents:
        see `gm.pipeline.ImageToVideo.condition`."""
        if end is not None and end is not image:
            first = self.pipeline.condition(image, options, keep=True)
            return first, self.pipeline.condition(end, options, keep=keep)
        conditioning = self.pipeline.condition(image, options, keep=keep, latents=latents)
        return conditioning, None if end is None else conditioning

    def _sample(
        self,
        begun: list[_Begun],
        options: list[Options],
        conditionings: list[Conditioning],
        ends: list[Conditioning | None],
    ) -> Generator[Event, None, np.ndarray]:
        """Returns the latents of one segment of each video, one behind the other."""
        yield from self._load("denoiser")
        images = [video.chain.image for video in begun if video.chain.image is not None]  # see `_sampled`
        shape = (images[0].shape, options[0].num_frames, len(begun))
        if self.model.settings.mode == ops.GRAPH_MODE and not self.model.cached and shape not in self.model.compiled:
            yield Compiling()
        preview = Preview(images[0], conditionings[0].concat[0])
        yield Sampling(0, options[0].sampling_steps)
        if len(begun) == 1:
            end, known = ends[0], begun[0].known
            steps = self.pipeline.steps(images[0], options[0], conditionings[0], end=end, known=known)
        else:
            steps = self.pipeline.steps_together(images, options, conditionings, ends)
        frames = options[0].num_frames
        for step in steps:
            self.model.compiled.add(shape)
            latents = step.latents
            yield Sampling(step.index, step.total, step.sigma, functools.partial(preview, step.denoised[:frames]))
        return latents

    def _decode(self, latents: np.ndarray, options: Options) -> Generator[Event, None, tuple[np.ndarray, np.ndarray]]:
        """Returns the frames uint8 (t, h, w, 3) of one segment, and the same without the watermark."""
        yield from self._load("decoder")
        chunks, done = [], 0
        yield Decoding(done, options.num_frames)
        for pixels in self.pipeline.decode_chunks(latents, options):
            chunks.append(pixels)
            done += len(pixels)
            yield Decoding(done, options.num_frames)
        pixels = np.concatenate(chunks)
        plain = videos.to_uint8(pixels)
        if not self.settings.watermark:
            return plain, plain
        from gm.data.watermark import embed_watermark

        return videos.to_uint8(pixels, embed_watermark), plain
