"""The clips to train on and those held out for validation."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from gm.data.clips import ClipDataset
from gm.data.metadata import Metadata, read_metadata
from gm.data.rows import Clip
from gm.data.sized_clips import by_size
from gm.errors import UserError
from gm.ops import parallel
from gm.training.draws import held_out
from gm.training.settings import Train, sizes

_MOST_THREADS = 8  # of one reader: each holds pictures of its own
_log = logging.getLogger(__name__)
DataSets = dict[tuple[int, int], ClipDataset]  # by (height, width) in pixels


def open_data(train: Train) -> tuple[DataSets, DataSets]:
    """(training clips, validation clips) from the section `train`, each {(height, width) in pixels: `ClipDataset`}, the
    second empty where nothing is held out. UserError on bad data."""
    data, validation = train.dataset.init_args, train.validation
    # Where the run, or the cache that several runs share, keeps what it found out about the video files.
    indices = Path(train.output_dir if train.cache is None else train.cache) / "video_index"

    def read(table: str, folder: str) -> Metadata:
        return read_metadata(table, folder, data.frames, data.step, data.verify_files, indices)

    metadata = read(data.metadata, data.data_dir)
    other = None
    if validation.metadata is not None:
        folder = data.data_dir if validation.data_dir is None else validation.data_dir
        other = read(validation.metadata, folder)
        _warn_of_shared(metadata, other)
    elif validation.share:
        metadata, other = _split(metadata, train.seed, validation.share)
    threads = _decoding_threads(train.loader.workers)

    def datasets(clips: list[Clip], flip: float) -> DataSets:
        groups = by_size(clips, sizes(data), indices)
        return {
            (height, width): ClipDataset(
                Metadata(group, []), data.frames, data.step, height, width, flip, train.seed, indices, threads, n
            )
            for n, ((height, width), group) in enumerate(groups.items())
        }

    return datasets(metadata.clips, data.flip), datasets(other.clips, 0.0) if other else {}


def _warn_of_shared(trained: Metadata, held: Metadata) -> None:
    """A loss on what is trained on tells nothing of other clips, and looks the better for it."""
    files = {clip.path for clip in trained.clips} & {clip.path for clip in held.clips}
    if files:
        _log.warning(
            "train.validation.metadata: %d of its %d clips are of files that are trained on too, such as %s: the "
            "validation loss tells how well these are remembered",
            sum(clip.path in files for clip in held.clips),
            len(held.clips),
            min(files),
        )


def _decoding_threads(workers: int) -> int:
    """Threads of each reader: what the loader's workers, each with a clip of its own, and the other processes of the
    run leave of the cores that this process may use. The frames are the same with any number."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST_THREADS, max(1, cores // (workers * parallel.size())))


def _split(metadata: Metadata, seed: int, share: float) -> tuple[Metadata, Metadata]:
    """(rest, held out): a share of the files, with all clips of each, for scenes of one video resemble each other."""
    files = list(dict.fromkeys(clip.path for clip in metadata.clips))
    apart = {files[index] for index in held_out(seed, len(files), share)}
    if not apart:
        raise UserError("train.validation.share: all clips are of one file, none can be held out of training")
    rest = [clip for clip in metadata.clips if clip.path not in apart]
    return Metadata(rest, metadata.dropped), Metadata([clip for clip in metadata.clips if clip.path in apart], [])
