"""Make the list of clips that train.py reads: a CSV with path, length, motion_bucket_id, fps and motion_score.

The bucket follows from the measured motion by this project's own mapping, not Stability's: see gm/data/motion.py.
"""

from __future__ import annotations

import csv
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
from jsonargparse import ArgumentParser
from tqdm import tqdm

from gm.data import motion
from gm.data.video_reader import SUFFIXES, open_video
from gm.errors import UserError, run_cli
from gm.files import atomic_path

COLUMNS = ("path", "length", "motion_bucket_id", "fps", "motion_score")
_CHUNK = 8  # frames of a long video held at a time


def find_videos(folder):
    """Paths of all videos below `folder`, relative to it, with "/" between the parts, sorted. UserError if none."""
    if not folder.is_dir():
        raise UserError(f"no folder at {folder}")
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                found.append((Path(parent) / name).relative_to(folder).as_posix())
    if not found:
        raise UserError(f"no videos in {folder}: looked for {', '.join(SUFFIXES)} in it and its folders")
    return sorted(found)


def label(folder, path):
    """The row of one video, a tuple of strings in the order of COLUMNS. UserError if it cannot be read."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{os.fsencode(path)!r}: a name that is not UTF-8 cannot be in the list; rename it") from error
    with open_video(folder / path) as video:
        if video.length < 2:
            raise UserError(f"{folder / path}: has a single frame; motion needs at least 2")
        indices = motion.sample_indices(video.length, video.fps)
        score = motion.sampled_motion_score(_pictures(video, indices), indices, video.fps)
        return path, str(video.length), str(motion.bucket(score)), f"{video.fps:.6g}", f"{score:.4f}"


def _pictures(video, indices):
    for start in range(0, len(indices), _CHUNK):
        yield from video.frames(indices[start : start + _CHUNK])


def read_rows(path):
    """Complete rows of an earlier run as {path: row}; {} if there is no such file.

    A last line without its end was cut off when that run was killed, and is left out.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} to resume: {error}") from error
    complete = text[: text.rfind("\n") + 1]
    rows = list(csv.reader(complete.splitlines(keepends=True)))
    if rows and tuple(rows[0]) != COLUMNS:
        raise UserError(f"cannot resume: {path} does not have the columns {','.join(COLUMNS)}; remove it or rename it")
    return {row[0]: tuple(row) for row in rows[1:] if len(row) == len(COLUMNS)}


def write_rows(path, rows):
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def label_videos(folder, output, workers=2, resume=False):
    """Label all videos of `folder` into the CSV `output`; returns [(path, reason)] of those that could not be read.

    While it runs, each finished video is a line of `output` + ".partial"; the CSV itself appears at the end, whole.
    UserError if either file exists and `resume` is not set.
    """
    partial = output.with_name(output.name + ".partial")
    existing = [path for path in (output, partial) if path.exists()]
    if existing and not resume:
        raise UserError(f"{existing[0]} exists: pass --resume to continue it, or remove it")
    videos = find_videos(folder)
    done = {**read_rows(output), **read_rows(partial)}
    done = {path: done[path] for path in videos if path in done}
    write_rows(partial, done.values())
    todo = [path for path in videos if path not in done]
    failures = []
    with open(partial, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for path, row, reason in _label_all(folder, todo, workers):
            if reason:
                failures.append((path, reason))
                tqdm.write(f"left out: {reason}", file=sys.stderr)
            else:
                done[path] = row
                try:
                    writer.writerow(row)
                    file.flush()
                except OSError as error:
                    remedy = f"{error.strerror}; free some space, then --resume"
                    raise UserError(f"cannot write {partial}: {remedy}") from error
    write_rows(output, (done[path] for path in videos if path in done))
    partial.unlink()
    return failures


def _label_all(folder, paths, workers):
    """(path, row, None) or (path, None, reason) of each video, in order, under a progress bar."""

    def one(path):
        try:
            return path, label(folder, path), None
        except UserError as error:
            return path, None, str(error)

    cv2.setNumThreads(1)  # the workers are the parallel part; OpenCV's own threads would only get in each other's way
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from tqdm(pool.map(one, paths), total=len(paths), desc="labelling", unit="video", file=sys.stderr)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("videos_dir", type=Path, help="folder with the videos; folders in it are searched too")
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write; paths in it are relative")
    parser.add_argument("--workers", type=int, default=2, help="videos measured at the same time")
    parser.add_argument("--resume", action="store_true", help="keep the rows of an earlier run, finished or not")
    options = parser.parse_args(argv)
    if options.workers < 1:
        raise UserError(f"--workers must be at least 1, not {options.workers}")
    failures = label_videos(options.videos_dir, options.output, options.workers, options.resume)
    labelled = len(read_rows(options.output))
    print(f"{labelled} videos labelled in {options.output}")
    if failures:
        print(f"{len(failures)} videos left out:", file=sys.stderr)
        for _, reason in failures:
            print(f"  {reason}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    run_cli(main)
