"""Make the list of clips that train.py reads: a CSV with path, length, motion_bucket_id, fps and motion_score.

python svd_tools/label_videos.py VIDEOS --output=LABELS.csv

With --split_scenes a row for each scene, where it starts, and what may be wrong with it: see docs/datasets.md.
The bucket follows from the measured motion by this project's own mapping, not Stability's: see gm/data/motion.py.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

import csv
import functools
import io
import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import cv2

from gm.console import say
from gm.data.calibration import Calibration, beside
from gm.data.frame_folder import clip_files
from gm.data.labelling import COLUMNS, SCENE_COLUMNS, label, rate_cell
from gm.data.listed import note_folder, require_folder
from gm.data.scenes import cut_detector
from gm.data.search import find_clips
from gm.data.spread import spread
from gm.data.table import write_row, write_rows
from gm.data.video_pictures import is_hdr
from gm.errors import UserError, run_cli
from gm.files import PATH, count_suffixes, refuse_folder
from gm.locks import held
from gm.parser import Parser


def read_rows(path: Path, columns: Sequence[str] = COLUMNS) -> dict[str, list[tuple[str, ...]]]:
    """Complete rows of an earlier run as {path: [row, ...]}; {} if there is no such file.

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
    if rows and tuple(rows[0]) != columns:
        raise UserError(f"cannot resume: {path} does not have the columns {','.join(columns)}; remove it or rename it")
    found: dict[str, list[tuple[str, ...]]] = {}
    for row in rows[1:]:
        if len(row) == len(columns):
            found.setdefault(row[0], []).append(tuple(row))
    return found


def label_videos(
    folder: Path,
    output: Path,
    workers: int = 2,
    resume: bool = False,
    frames_fps: float | None = None,
    hdr: str = "map",
    split_scenes: bool = False,
    scheduler: str | None = None,
) -> list[tuple[str, str]]:
    """Label all clips of `folder` into the CSV `output`; returns [(path, reason)] of those that could not be read.

    workers, scheduler: as of `gm.data.spread.spread`; the other options as of `label`. What is left out for its suffix,
    and links to folders that are searched anyway, are told on stderr.
    While it runs, each finished video is a line of `output` + ".partial"; the CSV itself appears at the end, whole.
    UserError if either file exists and `resume` is not set, or is of another folder, or another process is labelling
    into this CSV.
    """
    with held(output.with_name(f".{output.name}.lock"), f"another process is writing {output}: wait for it"):
        return _label_videos(folder, output, workers, resume, frames_fps, hdr, split_scenes, scheduler)


def _label_videos(
    folder: Path,
    output: Path,
    workers: int,
    resume: bool,
    frames_fps: float | None,
    hdr: str,
    split_scenes: bool,
    scheduler: str | None,
) -> list[tuple[str, str]]:
    if split_scenes:
        cut_detector()  # is there, or it is told now
    columns = SCENE_COLUMNS if split_scenes else COLUMNS
    partial = output.with_name(output.name + ".partial")
    existing = [path for path in (output, partial) if path.exists()]
    if existing and not resume:
        raise UserError(f"{existing[0]} exists: pass --resume to continue it, or remove it")
    if existing:
        require_folder(output, folder)
    found = find_clips(folder)
    note_folder(output, folder)
    videos = found.clips
    if found.others:
        say(f"left out by suffix: {count_suffixes(found.others)}")
    for path in found.repeated:
        say(f"left out: {folder / path}: a link to a folder that is searched anyway")
    done = _listed_before(folder, output, partial, videos, columns, frames_fps)
    if hdr == "refuse":  # which an earlier run may not have asked for
        done = {path: rows for path, rows in done.items() if not is_hdr(folder / path)}
    write_rows(partial, columns, chain.from_iterable(done.values()))
    todo = [path for path in videos if path not in done]
    failures = list(found.unreadable)
    for _, fault in failures:
        say(f"left out: {fault}")
    with open(partial, "a", newline="", encoding="utf-8") as file:
        one = functools.partial(_labelled, folder.absolute() if scheduler else folder, (frames_fps, hdr, split_scenes))
        for path, rows, reason in spread(
            one,
            todo,
            workers,
            scheduler,
            desc="labelling",
            unit="video",
            given_up=lambda path, reason: (path, None, reason),
        ):
            if rows is None:
                failures.append((path, str(reason)))
                say(f"left out: {reason}")
            else:
                done[path] = rows
                try:
                    for row in rows:
                        write_row(file, row)
                    file.flush()
                except OSError as error:
                    remedy = f"{error.strerror}; free some space, then --resume"
                    raise UserError(f"cannot write {partial}: {remedy}") from error
    write_rows(output, columns, (row for path in videos for row in done.get(path, ())))
    partial.unlink()
    return failures


def _listed_before(
    folder: Path,
    output: Path,
    partial: Path,
    videos: Sequence[str],
    columns: Sequence[str],
    frames_fps: float | None,
) -> dict[str, list[tuple[str, ...]]]:
    """{video: its rows} of an earlier run's files, of those videos that are as they were then."""
    written = {path: path.stat().st_mtime_ns for path in (output, partial) if path.exists()}
    done, unfinished = read_rows(output, columns), read_rows(partial, columns)
    if columns == SCENE_COLUMNS and unfinished:
        unfinished.popitem()  # the last video: other scenes of it may not have been written
    when = {**dict.fromkeys(done, written.get(output, 0)), **dict.fromkeys(unfinished, written.get(partial, 0))}
    done.update(unfinished)
    done = {path: done[path] for path in videos if path in done}
    for path in [path for path, rows in done.items() if _outdated(folder / path, rows, when[path], frames_fps)]:
        say(f"measured anew: {folder / path}: it or its frame rate has changed since it was listed")
        del done[path]
    return done


def _outdated(path: Path, rows: Sequence[tuple[str, ...]], listed: int, frames_fps: float | None) -> bool:
    """Whether a clip was written to, or put under its name, after its rows were, in nanoseconds at `listed`, or is a
    folder of frames that had another rate then. False for what cannot be looked at."""
    try:
        is_folder = path.is_dir()
        if is_folder and frames_fps is not None and any(row[3] != rate_cell(frames_fps) for row in rows):
            return True
        frames = clip_files(path) if is_folder else [path]
        found = [path.lstat(), *(file.stat() for file in (path, frames[0], frames[-1]))]  # written over, or others
        # What mv, cp -p or rsync puts in a file's place keeps its own, older, time of writing.
        newest = max(max(status.st_mtime_ns, status.st_ctime_ns) for status in found)
    except (OSError, UserError):
        return False
    return newest > listed


def _labelled(
    folder: Path, options: tuple[float | None, str, bool], path: str
) -> tuple[str, list[tuple[str, ...]] | None, str | None]:
    """(path, rows, None) or (path, None, reason) of a video."""
    cv2.setNumThreads(1)  # the workers are the parallel part; OpenCV's own threads would only get in each other's way
    try:
        return path, label(folder, path, *options), None
    except UserError as error:
        return path, None, str(error)


def set_scale(path: Path, calibration: Calibration | None = None) -> Calibration:
    """Write the buckets of the finished list `path` anew, by a `Calibration` or one fitted to its scores, and keep that
    beside the list. Returns it. UserError where there are too few clips."""
    with held(path.with_name(f".{path.name}.lock"), f"another process is writing {path}: wait for it"):
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        bucket, score = header.index("motion_bucket_id"), header.index("motion_score")
        calibration = calibration or Calibration.fit([float(row[score]) for row in rows])
        for row in rows:
            row[bucket] = str(calibration.bucket(float(row[score])))
        calibration.save(beside(path))  # first: killed in between, the list does not pass for one by the fixed scale
        write_rows(path, header, rows)
    return calibration


def _parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument(
        "videos_dir",
        type=PATH,
        help="folder with the videos; folders in it, and linked ones, are "
        "searched too. A folder of pictures without videos or folders in it is a clip, its frames in "
        "the order of the numbers in their names",
    )
    parser.add_argument("--output", type=PATH, required=True, help="the CSV file to write; paths in it are relative")
    parser.add_argument("--workers", type=int, default=2, help="videos measured at the same time")
    parser.add_argument(
        "--scheduler",
        help="address of a Dask scheduler, tcp://HEAD:8786: its workers measure in "
        "place of this machine and see the videos under the same path (needs requirements-cluster.txt)",
    )
    parser.add_argument("--frames_fps", type=float, help="frames per second of the clips that are folders of pictures")
    parser.add_argument(
        "--hdr",
        default="map",
        choices=["map", "refuse"],
        help="videos of high dynamic range: bring them down to SDR, as training will, or leave them out of the list, "
        "with --resume also those that it has already",
    )
    parser.add_argument(
        "--split_scenes",
        action="store_true",
        help="one row for each scene, so that no training clip "
        "crosses a cut, with columns that tell black, frozen and faded stretches, bars and overlays "
        "(needs requirements-data.txt)",
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="fit the motion buckets to these videos: 127 is their "
        "median motion, 254 the most; the scale is kept beside the CSV, see gm/data/calibration.py",
    )
    parser.add_argument("--calibration", type=PATH, help="such a file of another list, to use its scale")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the rows of an earlier run, finished or not, of clips that were not written to, moved or "
        "replaced since",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    if options.workers < 1:
        raise UserError(f"--workers must be at least 1, not {options.workers}")
    if options.frames_fps is not None and not 0 < options.frames_fps < math.inf:
        raise UserError(f"--frames_fps must be above 0, not {options.frames_fps}")
    refuse_folder(options.output, "--output")
    if options.calibrate and options.calibration:
        raise UserError("--calibrate fits a scale and --calibration names one: give one of them")
    if beside(options.output).exists() and not (options.calibrate or options.calibration):
        raise UserError(
            f"{options.output} has a scale of its own, {beside(options.output)}: --calibrate fits it anew, "
            "--calibration=FILE keeps it; without it all buckets would have to be made anew: remove both"
        )
    scale = Calibration.load(options.calibration) if options.calibration else None
    failures = label_videos(
        options.videos_dir,
        options.output,
        options.workers,
        options.resume,
        options.frames_fps,
        options.hdr,
        options.split_scenes,
        options.scheduler,
    )
    labelled = read_rows(options.output, SCENE_COLUMNS if options.split_scenes else COLUMNS)
    scenes = f", {sum(map(len, labelled.values()))} scenes," if options.split_scenes else ""
    print(f"{len(labelled)} videos{scenes} labelled in {options.output}")
    if options.calibrate or scale:
        print(f"{beside(options.output)}: bucket 127 is {set_scale(options.output, scale).describe(127)}")
    if failures:
        say(f"{len(failures)} videos left out:")
        for _, reason in failures:
            say(f"  {reason}")
    return 1 if failures else 0


if __name__ == "__main__":
    run_cli(main)
