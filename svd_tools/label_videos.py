"""Make the list of clips that train.py reads: a CSV with path, length, motion_bucket_id, fps and motion_score.

The bucket follows from the measured motion by this project's own mapping, not Stability's: see gm/data/motion.py.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

import csv
import io
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
from jsonargparse import ArgumentParser
from tqdm import tqdm

from gm.data import motion
from gm.data.calibration import Calibration, beside
from gm.data.frame_folder import open_clip
from gm.data.search import find_clips
from gm.errors import UserError, run_cli
from gm.files import atomic_path, count_suffixes, remove_leftovers
from gm.locks import held

COLUMNS = ("path", "length", "motion_bucket_id", "fps", "motion_score")
_CHUNK = 8  # frames of a long video held at a time


def label(folder, path, frames_fps=None, hdr="map"):
    """The row of one clip, a tuple of strings in the order of COLUMNS. UserError if it cannot be read.

    frames_fps: frames per second of folders of frames, which do not state it. hdr: as in
    `gm.data.video_reader.open_video`.
    """
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{os.fsencode(path)!r}: a name that is not UTF-8 cannot be in the list; rename it") from error
    with open_clip(folder / path, hdr=hdr) as video:
        fps = frames_fps if video.fps is None else video.fps
        if fps is None:
            raise UserError(f"{folder / path}: a folder of pictures states no frame rate: give it by --frames_fps")
        if video.length < 2:
            raise UserError(f"{folder / path}: has a single frame; motion needs at least 2")
        video.size  # noqa: B018  (of a folder of frames: each is looked at)
        indices = motion.sample_indices(video.length, fps, video.times)
        score = motion.sampled_motion_score(_pictures(video, indices), indices, fps, video.times)
        return path, str(video.length), str(motion.bucket(score)), f"{fps:.6g}", f"{score:.4f}"


def _pictures(video, indices):
    for start in range(0, len(indices), _CHUNK):
        yield from video.frames(indices[start : start + _CHUNK])


def read_rows(path):
    """Complete rows of an earlier run as {path: row}; {} if there is no such file.

    A last line without its end was cut off when that run was killed, and is left out.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} to resume: {error}") from error
    complete = text[: text.rfind("\n") + 1]
    rows = list(csv.reader(io.StringIO(complete, newline="")))
    if rows and tuple(rows[0]) != COLUMNS:
        raise UserError(f"cannot resume: {path} does not have the columns {','.join(COLUMNS)}; remove it or rename it")
    return {row[0]: tuple(row) for row in rows[1:] if len(row) == len(COLUMNS)}


def write_rows(path, rows):
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        for row in (COLUMNS, *rows):
            write_row(file, row)


def write_row(file, row):
    """One line of the CSV, which `gm.data.metadata.read_metadata` reads back whatever the name holds."""
    # Before Python 3.13 the csv module puts no quotes around a carriage return where lines end otherwise.
    quoting = csv.QUOTE_ALL if "\r" in row[0] else csv.QUOTE_MINIMAL
    csv.writer(file, lineterminator="\n", quoting=quoting).writerow(row)


def label_videos(folder, output, workers=2, resume=False, frames_fps=None, hdr="map"):
    """Label all clips of `folder` into the CSV `output`; returns [(path, reason)] of those that could not be read.

    What is left out for its suffix, and links to folders that are searched anyway, are told on stderr.
    While it runs, each finished video is a line of `output` + ".partial"; the CSV itself appears at the end, whole.
    UserError if either file exists and `resume` is not set, or another process is labelling into this CSV.
    """
    with held(output.with_name(f".{output.name}.lock"), f"another process is writing {output}: wait for it"):
        remove_leftovers(output.parent)
        return _label_videos(folder, output, workers, resume, frames_fps, hdr)


def _label_videos(folder, output, workers, resume, frames_fps, hdr):
    partial = output.with_name(output.name + ".partial")
    existing = [path for path in (output, partial) if path.exists()]
    if existing and not resume:
        raise UserError(f"{existing[0]} exists: pass --resume to continue it, or remove it")
    found = find_clips(folder)
    videos = found.clips
    if found.others:
        print(f"left out by suffix: {count_suffixes(found.others)}", file=sys.stderr)
    for path in found.repeated:
        print(f"left out: {folder / path}: a link to a folder that is searched anyway", file=sys.stderr)
    done = {**read_rows(output), **read_rows(partial)}
    done = {path: done[path] for path in videos if path in done}
    write_rows(partial, done.values())
    todo = [path for path in videos if path not in done]
    failures = list(found.unreadable)
    for _, reason in failures:
        print(f"left out: {reason}", file=sys.stderr)
    with open(partial, "a", newline="", encoding="utf-8") as file:
        for path, row, reason in _label_all(folder, todo, workers, frames_fps, hdr):
            if reason:
                failures.append((path, reason))
                tqdm.write(f"left out: {reason}", file=sys.stderr)
            else:
                done[path] = row
                try:
                    write_row(file, row)
                    file.flush()
                except OSError as error:
                    remedy = f"{error.strerror}; free some space, then --resume"
                    raise UserError(f"cannot write {partial}: {remedy}") from error
    write_rows(output, (done[path] for path in videos if path in done))
    partial.unlink()
    return failures


def _label_all(folder, paths, workers, frames_fps, hdr):
    """(path, row, None) or (path, None, reason) of each video, in order, under a progress bar."""

    def one(path):
        try:
            return path, label(folder, path, frames_fps, hdr), None
        except UserError as error:
            return path, None, str(error)

    cv2.setNumThreads(1)  # the workers are the parallel part; OpenCV's own threads would only get in each other's way
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from tqdm(pool.map(one, paths), total=len(paths), desc="labelling", unit="video", file=sys.stderr)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def set_scale(path, calibration=None):
    """Write the buckets of the finished list `path` anew, by a `Calibration` or one fitted to its scores, and keep that
    beside the list. Returns it. UserError where there are too few clips."""
    with held(path.with_name(f".{path.name}.lock"), f"another process is writing {path}: wait for it"):
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        bucket, score = header.index("motion_bucket_id"), header.index("motion_score")
        calibration = calibration or Calibration.fit([float(row[score]) for row in rows])
        for row in rows:
            row[bucket] = str(calibration.bucket(float(row[score])))
        with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            for row in (header, *rows):
                write_row(file, row)
        calibration.save(beside(path))
    return calibration


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("videos_dir", type=Path, help="folder with the videos; folders in it, and linked ones, are "
                        "searched too. A folder of pictures without videos or folders in it is a clip, its frames in "
                        "the order of the numbers in their names")
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write; paths in it are relative")
    parser.add_argument("--workers", type=int, default=2, help="videos measured at the same time")
    parser.add_argument("--frames_fps", type=float, help="frames per second of the clips that are folders of pictures")
    parser.add_argument("--hdr", default="map", choices=["map", "refuse"], help="videos of high dynamic range: bring "
                        "them down to SDR, as training will, or leave them out of the list")
    parser.add_argument("--calibrate", action="store_true", help="fit the motion buckets to these videos: 127 is their "
                        "median motion, 254 the most; the scale is kept beside the CSV, see gm/data/calibration.py")
    parser.add_argument("--calibration", type=Path, help="such a file of another list, to use its scale")
    parser.add_argument("--resume", action="store_true", help="keep the rows of an earlier run, finished or not")
    options = parser.parse_args(argv)
    if options.workers < 1:
        raise UserError(f"--workers must be at least 1, not {options.workers}")
    if options.frames_fps is not None and not 0 < options.frames_fps < math.inf:
        raise UserError(f"--frames_fps must be above 0, not {options.frames_fps}")
    if options.calibrate and options.calibration:
        raise UserError("--calibrate fits a scale and --calibration names one: give one of them")
    if beside(options.output).exists() and not (options.calibrate or options.calibration):
        raise UserError(f"{options.output} has a scale of its own, {beside(options.output)}: --calibrate fits it anew, "
                        "--calibration=FILE keeps it; without it all buckets would have to be made anew: remove both")
    scale = Calibration.load(options.calibration) if options.calibration else None
    failures = label_videos(
        options.videos_dir, options.output, options.workers, options.resume, options.frames_fps, options.hdr
    )
    labelled = len(read_rows(options.output))
    print(f"{labelled} videos labelled in {options.output}")
    if options.calibrate or scale:
        print(f"{beside(options.output)}: bucket 127 is {set_scale(options.output, scale).describe(127)}")
    if failures:
        print(f"{len(failures)} videos left out:", file=sys.stderr)
        for _, reason in failures:
            print(f"  {reason}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    run_cli(main)
