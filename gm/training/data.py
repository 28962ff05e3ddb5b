"""The clips to train on and those held out for validation."""

from __future__ import annotations

import os
from pathlib import Path

from gm.data.clips import ClipDataset
from gm.data.metadata import Metadata, read_metadata
from gm.errors import UserError
from gm.ops import parallel
from gm.training.draws import held_out

_MOST_THREADS = 8  # of one reader: each holds pictures of its own


def open_data(train):
    """(training clips, validation clips or None) as `ClipDataset`, from the section `train`. UserError on bad data."""
    data, validation = train.dataset.init_args, train.validation
    # Where the run, or the cache that several runs share, keeps what it found out about the video files.
    indices = Path(train.output_dir if train.cache is None else train.cache) / "video_index"

    def read(table, folder):
        return read_metadata(table, folder, data.frames, data.step, data.verify_files, indices)

    metadata = read(data.metadata, data.data_dir)
    other = None
    if validation.metadata is not None:
        folder = data.data_dir if validation.data_dir is None else validation.data_dir
        other = read(validation.metadata, folder)
    elif validation.share:
        metadata, other = _split(metadata, held_out(train.seed, len(metadata.clips), validation.share))
    threads = _decoding_threads(train.loader.workers)

    def dataset(clips, flip):
        return ClipDataset(clips, data.frames, data.step, data.height, data.width, flip, train.seed, indices, threads)

    return dataset(metadata, data.flip), other and dataset(other, 0.0)


def _decoding_threads(workers):
    """Threads of each reader: what the loader's workers, each with a clip of its own, and the other processes of the
    run leave of the cores that this process may use. The frames are the same with any number."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST_THREADS, max(1, cores // (workers * parallel.size())))


def _split(metadata, held):
    if not held:
        raise UserError("train.validation.share: there is only one clip, none can be held out of training")
    apart = set(held)
    rest = [clip for i, clip in enumerate(metadata.clips) if i not in apart]
    return Metadata(rest, metadata.dropped), Metadata([metadata.clips[i] for i in held], [])
