"""CSV files as tables of strings, with the line of each row, and lists of what is wrong in them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

from gm.errors import UserError
from gm.files import atomic_path, require_file

_SHOWN = 20  # faults or clips named in one message
_SEPARATORS = {";": "semicolons", "\t": "tabs"}  # of other kinds of tables
_PACKED = {  # how files begin that hold a CSV at best inside
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"BZh": "compressed with bzip2: unpack it first",
    b"\xfd7zXZ": "compressed with xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it first",
    b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it, or save it as CSV (UTF-8)",
}


def read_table(
    csv_path: Path, required: Sequence[str], names: Sequence[str] | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
    """(table, lines): the columns of a CSV as strings, stripped but for `path`, and each row's line in the file.

    required: columns that must be there. names: columns to keep, of those that are there; None keeps all. UTF-8, with
    or without a byte order mark, and never compressed. Blank lines are skipped. UserError, naming file and line:
    unreadable, empty, another number of fields than the header, columns missing or repeated, nothing below the header.
    """
    require_file(csv_path, "the metadata file")
    try:
        _refuse_packed(csv_path)
        _refuse_nulls(csv_path)
        # Header as data: so no first column is taken for an index, and repeated names are not silently renamed.
        raw = pd.read_csv(
            csv_path,
            header=None,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,
            encoding="utf-8-sig",
            compression=None,
        )
    except FileNotFoundError as error:
        raise UserError(f"no metadata file at {csv_path}") from error
    except OSError as error:
        raise UserError(f"cannot read metadata {csv_path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{csv_path} is not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8") from error
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{csv_path} is empty; its first line must be {','.join(required)}") from error
    except pd.errors.ParserError as error:
        raise UserError(f"{csv_path}: {_parse_faults(csv_path, error)}") from error
    raw = raw.fillna("")  # the ends of lines that have too few fields
    lines = _line_numbers(raw, csv_path)
    header = [name.strip() for name in raw.iloc[0]]
    _check_header(csv_path, header, required)
    table = pd.DataFrame({name: raw[header.index(name)] for name in names or header if name in header})
    for name in table.columns.drop("path"):  # in names of files blanks may matter
        table[name] = table[name].str.strip()
    rows = np.flatnonzero(~(raw == "").all(axis=1).to_numpy())[1:]
    if not len(rows):
        raise UserError(f"{csv_path} lists no clips: it has a header and nothing below it")
    return table.iloc[rows].reset_index(drop=True), lines[rows]


def write_rows(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A CSV with that header and these rows of strings, whole or not at all. UserError where it cannot be written."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        for row in (columns, *rows):
            write_row(file, row)


def write_row(file: TextIO, row: Sequence[str]) -> None:
    """One line of a CSV, which `read_table` reads back whatever the cells hold."""
    # Before Python 3.13 the csv module puts no quotes around a carriage return where lines end otherwise.
    whole = any("\r" in cell for cell in row)
    csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if whole else csv.QUOTE_MINIMAL).writerow(row)


def _refuse_packed(csv_path: Path) -> None:
    with open(csv_path, "rb") as file:
        head = file.read(8)
    for beginning, what in _PACKED.items():
        if head.startswith(beginning):
            raise UserError(f"{csv_path} is {what}")


def _refuse_nulls(csv_path: Path) -> None:
    """pandas ends a cell at a null character: 12 would be 1."""
    line = 1
    with open(csv_path, "rb") as file:
        while block := file.read(1 << 20):
            place = block.find(b"\0")
            if place >= 0:
                line += block.count(b"\n", 0, place)
                raise UserError(
                    f"{csv_path}, line {line}: a null character: the file is damaged, or UTF-16: save it as UTF-8"
                )
            line += block.count(b"\n")


def _line_numbers(raw: pd.DataFrame, csv_path: Path) -> np.ndarray:
    """First line, from 1, of each row: a quoted cell may hold line breaks."""
    if _count_lines(csv_path) == len(raw):  # none does, which is quicker found than counted
        return 1 + np.arange(len(raw))
    breaks = sum(raw[column].str.count("\n") for column in raw).to_numpy()
    return 1 + np.arange(len(raw)) + np.concatenate([[0], np.cumsum(breaks)[:-1]]).astype(int)


def _count_lines(path: Path) -> int:
    count, last = 0, b"\n"
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            count, last = count + block.count(b"\n"), block[-1:]
    return count + (last != b"\n")


def _parse_faults(csv_path: Path, error: Exception) -> str:
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
    return listing(faults, "fault") if faults else str(error).replace("Error tokenizing data. C error: ", "").strip()


def _check_header(csv_path: Path, header: list[str], required: Sequence[str]) -> None:
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise UserError(f"{csv_path}, line 1: the column {', '.join(repeated)} appears more than once")
    missing = [name for name in required if name not in header]
    if missing:
        other = next((name for mark, name in _SEPARATORS.items() if len(header) == 1 and mark in header[0]), None)
        raise UserError(
            f"{csv_path}, line 1: missing column {', '.join(missing)}; it has {', '.join(header)}. "
            f"The first line must name {','.join(required)}"
            + (f"; the columns are separated by {other}: save it with commas" if other else "")
        )


def listing(items: Iterable[tuple[int, str]], noun: str) -> str:
    """[(line, text)] → "2 faults" and one line for each of the first 20, in the file's order."""
    items = sorted(items)
    shown = "".join(f"\n  line {line}: {text}" for line, text in items[:_SHOWN])
    more = f"\n  … and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}{shown}{more}"
