"""The list of training clips: a CSV file with columns path, length and motion_bucket_id, checked before training."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from gm.console import progress
from gm.data.cropping import read_crop
from gm.data.frame_folder import open_clip
from gm.data.listed import ListedPaths
from gm.data.rows import Clip, by_file
from gm.data.table import listing, read_table
from gm.errors import UserError

REQUIRED = ("path", "length", "motion_bucket_id")
OPTIONAL = ("fps", "start", "width", "height")
_OPEN_WORKERS = 4
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Metadata:
    """clips: what can be trained on. dropped: the clips shorter than frames * step."""

    clips: list[Clip]
    dropped: list[Clip]


def read_metadata(
    csv_path: str | Path,
    data_dir: str | Path,
    frames: int,
    step: int,
    verify_files: str = "exists",
    index_folder: str | Path | None = None,
) -> Metadata:
    """Read and check the CSV file `csv_path` → Metadata.

    Columns path (relative to `data_dir`, or absolute; a video file or a folder of frames), length (frames),
    motion_bucket_id, and if there fps, which folders of frames need, start, width, height and crop; others are ignored.
    Blanks around a cell are skipped, but where a file's name has them the file is found.

    start: the first frame of the clip in its file, from 0 on; `length` counts from there, and samples stay within, so
    a video of several scenes has a row for each. Without it, or where it is empty, the clip is the whole file.

    crop: the part of the picture that is trained on, `width:height:x:y`, as label_videos.py writes it where there are
    bars; empty or not there: all of it.

    frames, step: a sample is `frames` frames, `step` apart; clips shorter than frames * step are dropped, with a
    logged warning that lists them. A bucket outside 0..255 is a warning too.
    verify_files: "exists" looks for the files and counts the pictures of folders; "open" also opens each video,
    compares its number of frames with the length stated and decodes its last frame, and compares the sizes of a
    folder's frames. index_folder: for that, as of `gm.data.video_reader.open_video`.

    UserError with all faults and their line numbers: unreadable or empty CSV, missing or repeated columns, wrong number
    of fields, empty cells, non-numbers, lengths below 1, missing files, a clip twice, clips of one file that overlap
    (their frames would be trained on twice as often, and be on both sides of a validation share), no clip left.
    """
    if verify_files not in ("exists", "open"):
        raise ValueError(f"verify_files must be 'exists' or 'open', not {verify_files!r}")
    table, lines = read_table(Path(csv_path), REQUIRED, (*REQUIRED, *OPTIONAL, "crop"))
    faults: list[tuple[int, str]] = []  # (line, what is wrong)
    columns = _check_cells(table, lines, faults)
    clips = _find_clips(table["path"], lines, columns, ListedPaths(data_dir), faults)
    _refuse_repeats(clips, faults)
    if verify_files == "open":
        _check_videos(clips, faults, index_folder)
    if faults:
        raise UserError(f"{csv_path}: {listing(faults, 'fault')}")
    _warn_of_buckets(csv_path, clips)
    return _drop_short(csv_path, clips, frames, step)


def _check_cells(table: pd.DataFrame, lines: np.ndarray, faults: list[tuple[int, str]]) -> dict[str, np.ndarray]:
    """Numbers of the columns and `good`, whether the row has no fault; faults are added to the list."""
    good = np.ones(len(table), bool)

    def refuse(mask: np.ndarray, message: str, column: str) -> None:
        for row in np.flatnonzero(mask):
            faults.append((int(lines[row]), message.format(repr(table[column].iat[row]))))
        good[mask] = False

    columns = {}
    refuse((table["path"].str.strip() == "").to_numpy(), "path is empty", "path")
    for name in ("length", "motion_bucket_id", *OPTIONAL):
        if name not in table:
            columns[name] = np.full(len(table), math.nan)
            continue
        empty = (table[name] == "").to_numpy()
        numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
        # Beyond 2**53 a float is not exact; no video is that long.
        finite = np.isfinite(numbers) & (np.abs(numbers) < 2.0**53)
        refuse(~finite & ~empty, name + " is not a number: {}", name)
        if name == "fps":  # an empty cell: the file's own
            refuse(finite & (numbers <= 0), "fps must be above 0, not {}", name)
        else:
            if name not in OPTIONAL:  # an empty cell: the whole file, a size that is not known
                refuse(empty, name + " is empty", name)
            whole = numbers == np.floor(numbers)
            refuse(finite & ~whole, name + " must be a whole number, not {}", name)
            if name == "length":
                refuse(finite & whole & (numbers < 1), "length must be at least 1 frame, not {}", name)
            if name == "start":
                refuse(finite & whole & (numbers < 0), "start must be 0 or more, not {}", name)
            if name in ("width", "height"):
                refuse(finite & whole & (numbers < 1), name + " must be at least 1 pixel, not {}", name)
        columns[name] = numbers
    crops, no_crop = _read_crops(table)
    refuse(no_crop, "crop must be width:height:x:y in pixels, not {}", "crop")
    return {**columns, "crop": crops, "good": good}


def _read_crops(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(object array of Crop or None, where a cell is none) of the rows."""
    crops, wrong = np.full(len(table), None), np.zeros(len(table), bool)
    cells = table["crop"].to_numpy() if "crop" in table else []
    for row in np.flatnonzero(np.asarray(cells, object) != ""):
        try:
            crops[row] = read_crop(cells[row])
        except ValueError:
            wrong[row] = True
    return crops, wrong


def _find_clips(
    cells: Iterable[str],
    lines: np.ndarray,
    columns: dict[str, np.ndarray],
    listed: ListedPaths,
    faults: list[tuple[int, str]],
) -> list[Clip]:
    """The clips of the rows without a fault; what is wrong with the files of all rows is added to `faults`."""
    clips: list[Clip] = []
    paths: dict[str, Path] = {}
    names = ("length", "motion_bucket_id", *OPTIONAL, "crop", "good")
    numbers = zip(*(columns[name].tolist() for name in names))
    for cell, line, row in zip(cells, lines.tolist(), numbers):
        length, bucket, fps, start, width, height, crop, good = row
        if not cell.strip():
            continue
        try:
            path, pictures = listed.find(cell)
        except UserError as error:
            faults.append((line, str(error)))
            continue
        if not good:
            continue
        if pictures is not None and math.isnan(fps):
            reason = "a folder of pictures states no frame rate: give it in the column fps"
            faults.append((line, f"{path}: {reason}"))
            continue
        part = not math.isnan(start)
        rate = None if math.isnan(fps) else fps
        size = None if math.isnan(width + height) else (int(height), int(width))
        place = paths.get(path) or paths.setdefault(path, Path(path))  # scenes of one file share it
        first, shown = int(start) if part else 0, crop.size if crop else size
        clip = Clip(place, int(length), int(bucket), rate, line, first, part, shown, crop)
        wrong = None if pictures is None else clip.wrong_length(pictures, "pictures")
        wrong = wrong or (clip.wrong_crop(size) if size else None)
        if wrong:
            faults.append((line, wrong))
        else:
            clips.append(clip)
    return clips


def _refuse_repeats(clips: Iterable[Clip], faults: list[tuple[int, str]]) -> None:
    """Frames that are listed twice would be trained on twice as often, unnoticed."""
    for same in by_file(clips):
        reaching, *later = sorted(same, key=lambda clip: (clip.start, clip.line))  # to the latest frame so far
        for clip in later:
            first, second = sorted((reaching, clip), key=lambda clip: clip.line)
            if clip.start == reaching.start:
                faults.append((second.line, f"{clip.path} is listed already, in line {first.line}"))
            elif clip.start < reaching.end:
                shared = f"frames {clip.start} to {min(clip.end, reaching.end) - 1} of {clip.path}"
                faults.append((second.line, f"{shared} are in line {first.line} already"))
            reaching = max(reaching, clip, key=lambda clip: clip.end)


def _check_videos(clips: Iterable[Clip], faults: list[tuple[int, str]], index_folder: str | Path | None) -> None:
    def file_faults(same: list[Clip]) -> list[tuple[int, str]]:
        found = []
        try:
            with open_clip(same[0].path, index_folder) as video:
                for clip in same:
                    wrong = clip.wrong_length(video.length, "frames") or clip.wrong_crop(video.size)
                    if wrong:
                        found.append((clip.line, wrong))
                    else:
                        video.frames([clip.end - 1])
                video.size  # noqa: B018  (of a folder of frames: each is looked at)
        except UserError as error:  # of the file: one row's fault names it
            found.append((same[0].line, str(error)))
        return found

    files = by_file(clips)
    with ThreadPoolExecutor(_OPEN_WORKERS) as pool:
        try:
            for found in progress(pool.map(file_faults, files), "checking videos", "video", len(files)):
                faults.extend(found)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _warn_of_buckets(csv_path: str | Path, clips: Iterable[Clip]) -> None:
    odd = [(clip.line, str(clip.motion_bucket_id)) for clip in clips if not 0 <= clip.motion_bucket_id <= 255]
    if odd:
        _log.warning("%s: motion_bucket_id outside 0..255, which SVD never saw: %s", csv_path, listing(odd, "clip"))


def _drop_short(csv_path: str | Path, clips: Sequence[Clip], frames: int, step: int) -> Metadata:
    needed = frames * step
    kept = [clip for clip in clips if clip.length >= needed]
    dropped = [clip for clip in clips if clip.length < needed]
    if dropped:
        short = listing([(clip.line, f"{clip.path} ({clip.length} frames)") for clip in dropped], "clip")
        rule = f"frames * step = {frames} * {step} = {needed} frames"
        remedy = _what_would_keep(dropped, frames, step)
        if not kept:
            raise UserError(f"{csv_path}: every clip is shorter than {rule}; {remedy}. {short}")
        _log.warning(
            "%s: %d of %d clips dropped, shorter than %s; %s: %s",
            csv_path,
            len(dropped),
            len(clips),
            rule,
            remedy,
            short,
        )
    return Metadata(kept, dropped)


def _what_would_keep(dropped: Sequence[Clip], frames: int, step: int) -> str:
    """The largest step that keeps all of these clips, or, where none does, the most frames that the step 1 allows."""
    shortest, longest = (f(clip.length for clip in dropped) for f in (min, max))
    if shortest >= frames:
        return f"step={shortest // frames} would keep them all"
    if longest >= frames and step > 1:
        return f"step={longest // frames} would keep the longest of them, frames={shortest} with step=1 all"
    return f"frames={shortest} with step=1 would keep them all"
