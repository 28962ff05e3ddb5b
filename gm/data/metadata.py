"""The list of training clips: a CSV file with columns path, length and motion_bucket_id, checked before training."""

from __future__ import annotations

import csv
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from gm.data.frame_folder import open_clip
from gm.data.listed import ListedPaths
from gm.errors import UserError
from gm.files import require_file

REQUIRED = ("path", "length", "motion_bucket_id")
_SHOWN = 20  # faults or clips named in one message
_OPEN_WORKERS = 4
_PACKED = {  # how files begin that hold a CSV at best inside
    b"\x1f\x8b": "compressed with gzip: unpack it first", b"BZh": "compressed with bzip2: unpack it first",
    b"\xfd7zXZ": "compressed with xz: unpack it first", b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it first",
    b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it, or save it as CSV (UTF-8)",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """One row: path of the video or folder of frames, length in frames, motion bucket (0..255), fps (None: the
    file's own), CSV line."""

    path: Path
    length: int
    motion_bucket_id: int
    fps: float | None
    line: int


@dataclass(frozen=True)
class Metadata:
    """clips: what can be trained on. dropped: the clips shorter than frames * step."""

    clips: list[Clip]
    dropped: list[Clip]


def read_metadata(csv_path, data_dir, frames, step, verify_files="exists", index_folder=None):
    """Read and check the CSV file `csv_path` → Metadata.

    Columns path (relative to `data_dir`, or absolute; a video file or a folder of frames), length (frames),
    motion_bucket_id, and fps if there, which folders of frames need; others are ignored. UTF-8, with or without a byte
    order mark, and never compressed. Blank lines are skipped. Blanks around a cell are too, but where a file's name has
    them the file is found.

    frames, step: a sample is `frames` frames, `step` apart; clips shorter than frames * step are dropped, with a
    logged warning that lists them. A bucket outside 0..255 is a warning too.
    verify_files: "exists" looks for the files and counts the pictures of folders; "open" also opens each video,
    compares its number of frames with the length stated and decodes its last frame, and compares the sizes of a
    folder's frames. index_folder: for that, as of `gm.data.video_reader.open_video`.

    UserError with all faults and their line numbers: unreadable or empty CSV, missing or repeated columns, wrong number
    of fields, empty cells, non-numbers, lengths below 1, missing files, a clip twice, no clip left.
    """
    if verify_files not in ("exists", "open"):
        raise ValueError(f"verify_files must be 'exists' or 'open', not {verify_files!r}")
    table = _read_table(Path(csv_path))
    lines = table.pop("line").to_numpy()
    faults = []  # (line, what is wrong)
    columns = _check_cells(table, lines, faults)
    clips = _find_clips(table["path"], lines, columns, ListedPaths(data_dir), faults)
    _refuse_repeats(clips, faults)
    if verify_files == "open":
        _check_videos(clips, faults, index_folder)
    if faults:
        raise UserError(f"{csv_path}: {_listing(faults, 'fault')}")
    _warn_of_buckets(csv_path, clips)
    return _drop_short(csv_path, clips, frames, step)


def _read_table(csv_path):
    """The CSV's columns that are used, as strings, stripped but for the paths, plus each row's line in the file."""
    require_file(csv_path, "the metadata file")
    try:
        _refuse_packed(csv_path)
        # Header as data: so no first column is taken for an index, and repeated names are not silently renamed.
        raw = pd.read_csv(
            csv_path, header=None, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig",
            compression=None,
        )
    except FileNotFoundError as error:
        raise UserError(f"no metadata file at {csv_path}") from error
    except OSError as error:
        raise UserError(f"cannot read metadata {csv_path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{csv_path} is not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8") from error
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{csv_path} is empty; its first line must be {','.join(REQUIRED)}") from error
    except pd.errors.ParserError as error:
        raise UserError(f"{csv_path}: {_parse_faults(csv_path, error)}") from error
    raw = raw.fillna("")  # the ends of lines that have too few fields
    lines = _line_numbers(raw)
    header = [name.strip() for name in raw.iloc[0]]
    _check_header(csv_path, header)
    table = pd.DataFrame({name: raw[header.index(name)] for name in (*REQUIRED, "fps") if name in header})
    for name in table.columns.drop("path"):  # in names of files blanks may matter
        table[name] = table[name].str.strip()
    table["line"] = lines
    blank = (raw == "").all(axis=1)
    table = table[~blank].iloc[1:]
    if table.empty:
        raise UserError(f"{csv_path} lists no clips: it has a header and nothing below it")
    return table.reset_index(drop=True)


def _refuse_packed(csv_path):
    with open(csv_path, "rb") as file:
        head = file.read(8)
    for beginning, what in _PACKED.items():
        if head.startswith(beginning):
            raise UserError(f"{csv_path} is {what}")


def _line_numbers(raw):
    """First line, from 1, of each row: a quoted cell may hold line breaks."""
    breaks = sum(raw[column].str.count("\n") for column in raw).to_numpy()
    return 1 + np.arange(len(raw)) + np.concatenate([[0], np.cumsum(breaks)[:-1]]).astype(int)


def _parse_faults(csv_path, error):
    """pandas stops at the first line with too many fields, so look for all of them."""
    faults, width = [], None
    try:
        with open(csv_path, newline="", encoding="utf-8-sig") as file:
            rows, line = csv.reader(file, strict=True), 1
            for row in rows:
                width = width or len(row)
                if len(row) > width:
                    faults.append((line, f"{len(row)} fields where the header has {width}; quote paths with commas"))
                line = rows.line_num + 1
    except csv.Error as quoting:
        faults.append((line, f"{quoting}; check the quotes"))
    return _listing(faults, "fault") if faults else str(error).replace("Error tokenizing data. C error: ", "").strip()


def _check_header(csv_path, header):
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise UserError(f"{csv_path}, line 1: the column {', '.join(repeated)} is there more than once")
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise UserError(
            f"{csv_path}, line 1: missing column {', '.join(missing)}; it has {', '.join(header)}. "
            f"The first line must name {','.join(REQUIRED)}"
        )


def _check_cells(table, lines, faults):
    """Numbers of the columns and `good`, whether the row has no fault; faults are added to the list."""
    good = np.ones(len(table), bool)

    def refuse(mask, message, column):
        for row in np.flatnonzero(mask):
            faults.append((int(lines[row]), message.format(repr(table[column].iat[row]))))
        good[mask] = False

    columns = {}
    refuse((table["path"].str.strip() == "").to_numpy(), "path is empty", "path")
    for name in ("length", "motion_bucket_id", "fps"):
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
            refuse(empty, name + " is empty", name)
            whole = numbers == np.floor(numbers)
            refuse(finite & ~whole, name + " must be a whole number, not {}", name)
            if name == "length":
                refuse(finite & whole & (numbers < 1), "length must be at least 1 frame, not {}", name)
        columns[name] = numbers
    return {**columns, "good": good}


def _find_clips(cells, lines, columns, listed, faults):
    """The clips of the rows without a fault; what is wrong with the files of all rows is added to `faults`."""
    clips = []
    numbers = zip(columns["length"], columns["motion_bucket_id"], columns["fps"], columns["good"])
    for cell, line, (length, bucket, fps, good) in zip(cells, lines.tolist(), numbers):
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
        elif pictures is not None and pictures != length:
            faults.append((line, f"length is {length:.0f}, but {path} has {pictures} pictures"))
        else:
            rate = None if math.isnan(fps) else float(fps)
            clips.append(Clip(Path(path), int(length), int(bucket), rate, line))
    return clips


def _refuse_repeats(clips, faults):
    """A clip that is listed twice would be trained on twice as often, unnoticed."""
    first = {}
    for clip in clips:
        earlier = first.setdefault(clip.path, clip)  # what makes a clip: add to it what tells parts of a file apart
        if earlier is not clip:
            faults.append((clip.line, f"{clip.path} is listed already, in line {earlier.line}"))


def _check_videos(clips, faults, index_folder):
    def fault(clip):
        try:
            with open_clip(clip.path, index_folder) as video:
                if video.length != clip.length:
                    return f"length is {clip.length}, but {clip.path} has {video.length} frames"
                video.frames([clip.length - 1])
                video.size  # noqa: B018  (of a folder of frames: each is looked at)
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(_OPEN_WORKERS) as pool:
        try:
            found = tqdm(pool.map(fault, clips), total=len(clips), desc="checking videos", unit="video")
            faults.extend((clip.line, reason) for clip, reason in zip(clips, found) if reason)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _warn_of_buckets(csv_path, clips):
    odd = [(clip.line, str(clip.motion_bucket_id)) for clip in clips if not 0 <= clip.motion_bucket_id <= 255]
    if odd:
        _log.warning("%s: motion_bucket_id outside 0..255, which SVD never saw: %s", csv_path, _listing(odd, "clip"))


def _drop_short(csv_path, clips, frames, step):
    needed = frames * step
    kept = [clip for clip in clips if clip.length >= needed]
    dropped = [clip for clip in clips if clip.length < needed]
    if dropped:
        short = _listing([(clip.line, f"{clip.path} ({clip.length} frames)") for clip in dropped], "clip")
        rule = f"frames * step = {frames} * {step} = {needed} frames"
        remedy = _what_would_keep(dropped, frames, step)
        if not kept:
            raise UserError(f"{csv_path}: every clip is shorter than {rule}; {remedy}. {short}")
        _log.warning("%s: %d of %d clips dropped, shorter than %s; %s: %s", csv_path, len(dropped), len(clips), rule,
                     remedy, short)
    return Metadata(kept, dropped)


def _what_would_keep(dropped, frames, step):
    """The largest step that keeps all of these clips, or, where none does, the most frames that the step 1 allows."""
    shortest, longest = (f(clip.length for clip in dropped) for f in (min, max))
    if shortest >= frames:
        return f"step={shortest // frames} would keep them all"
    if longest >= frames and step > 1:
        return f"step={longest // frames} would keep the longest of them, frames={shortest} with step=1 all"
    return f"frames={shortest} with step=1 would keep them all"


def _listing(items, noun):
    """[(line, text)] → "2 faults" and one line for each of the first 20, in the file's order."""
    items = sorted(items)
    shown = "".join(f"\n  line {line}: {text}" for line, text in items[:_SHOWN])
    more = f"\n  … and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}{shown}{more}"
