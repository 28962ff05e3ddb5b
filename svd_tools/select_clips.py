"""Choose the clips to train on from a list that label_videos.py made: by an expression over its columns, without
duplicates and still ones, evened out over motion, with whole videos held out for validation.

python svd_tools/select_clips.py LABELS.csv --output=TRAIN.csv --where "motion_score > 1 and duration > 2"

In this order: --where, --duplicates, --drop_static, --balance, --split. TRAIN.csv has the rows that stay, unchanged;
TRAIN.dropped.csv those that go, each with its reason; TRAIN.validation.csv those held out by --split.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gm.console import say
from gm.data import duplicates, selection
from gm.data.calibration import beside, of_list
from gm.data.metadata import REQUIRED
from gm.data.table import read_table, write_rows
from gm.errors import UserError, run_cli
from gm.files import PATH, refuse_folder
from gm.parser import Parser

if TYPE_CHECKING:
    import pandas as pd
    from jsonargparse import Namespace


class Selection:
    """The rows of a list that are still in, and why the others are not."""

    def __init__(self, table: pd.DataFrame, lines: np.ndarray) -> None:
        self.table, self.lines = table, lines
        self.numbers = selection.with_numbers(table)
        self.rows = np.arange(len(table))  # still in
        self.reasons: dict[int, str] = {}  # of those that went

    def keep(self, kept: np.ndarray, name: str, reasons: str | Sequence[str | None]) -> None:
        """kept: bool, of `rows`. reasons: text for each of them, or one for all. Prints how many went."""
        for place in np.flatnonzero(~kept):
            self.reasons[int(self.rows[place])] = reasons if isinstance(reasons, str) else str(reasons[place])
        gone = int((~kept).sum())
        self.rows = self.rows[kept]
        print(f"{name}: {gone} rows go, {len(self.rows)} stay")
        if not len(self.rows):
            raise UserError(f"{name}: no row would stay; nothing is written")

    def values(self) -> pd.DataFrame:
        """The numbers of the rows that are still in."""
        return self.numbers.iloc[self.rows].reset_index(drop=True)

    def clips(self, data_dir: str | Path) -> list[tuple[str, int, int]]:
        """[(absolute path, start, length)] of the rows that are still in. UserError: a length or start that is none."""
        values = self.values()
        try:
            starts = values["start"].astype(int) if "start" in values else [0] * len(values)
            lengths = values["length"].astype(int)
        except (ValueError, TypeError) as error:
            raise UserError(f"length and start must be whole numbers: {error}") from error
        return [
            (_place(data_dir, path), int(start), int(length))
            for path, start, length in zip(values["path"], starts, lengths)
        ]

    def cells(self, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[str, ...]]:
        return (tuple(row) for row in self.table.iloc[rows].itertuples(index=False))


def _place(data_dir: str | Path, path: str) -> str:
    whole = os.path.normpath(os.path.join(os.path.abspath(data_dir), path))
    return whole if os.path.lexists(whole) else os.path.normpath(os.path.join(os.path.abspath(data_dir), path.strip()))


def drop_duplicates(
    chosen: Selection, data_dir: str | Path, kind: str, distance: float, workers: int, scheduler: str | None
) -> int:
    """Take the clips out that show what an earlier one shows → number of those that could not be looked at."""
    clips = chosen.clips(data_dir)
    _drop(chosen, duplicates.same_bytes(clips, workers, scheduler), "duplicates, exact", "the same bytes as")
    if kind == "exact":
        return 0
    bits, failed = duplicates.hashes(chosen.clips(data_dir), workers, scheduler)
    found = duplicates.alike(bits, distance, [index for index, _ in failed])
    for index, reason in failed:
        line = chosen.lines[chosen.rows[index]]
        say(f"warning: line {line} stays, as it cannot be compared: {reason}")
    _drop(chosen, found, "duplicates, near", "looks like")
    return len(failed)


def _drop(chosen: Selection, found: Sequence[int | None], name: str, what: str) -> None:
    lines, paths = chosen.lines[chosen.rows], chosen.table["path"].to_numpy()[chosen.rows]
    reasons = [None if other is None else f"{what} line {lines[other]}: {paths[other]}" for other in found]
    chosen.keep(np.array([other is None for other in found]), name, reasons)


def select(chosen: Selection, options: Namespace) -> int:
    """Apply what the options say → number of clips that could not be looked at."""
    failures = 0
    if options.where is not None:
        values = chosen.values()
        kept = selection.where(values, options.where)
        chosen.keep(kept, f"--where {options.where!r}", f"not {options.where}")
    if options.duplicates is not None:
        failures = drop_duplicates(
            chosen, options.data_dir, options.duplicates, options.near_distance, options.workers, options.scheduler
        )
    if options.drop_static:
        chosen.keep(selection.moving(chosen.values()), "--drop_static", "in the lowest quarter of motion")
    if options.balance:
        kept, report = selection.balanced(chosen.values(), options.seed)
        for first, last, before, after in report:
            print(f"  motion buckets {first:3} to {last:3}: {before} rows, {after} stay")
        chosen.keep(kept, "--balance motion", "more rows of this motion than of others")
    return failures


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("labels", type=PATH, help="the CSV file to choose from")
    parser.add_argument("--output", type=PATH, required=True, help="the CSV file to write, for train.py")
    parser.add_argument(
        "--where",
        help="keep the rows for which this holds, an expression of pandas over the columns, "
        "and duration (seconds) and aspect (width / height)",
    )
    parser.add_argument(
        "--duplicates",
        choices=["exact", "near"],
        help="take out clips that show what an earlier one "
        "shows: files of the same bytes, or near ones too, such as re-encoded ones (needs "
        "requirements-data.txt)",
    )
    parser.add_argument(
        "--near_distance",
        type=float,
        default=6,
        help="of the 64 bits of a picture's hash so many may differ, in the mean over five pictures",
    )
    parser.add_argument(
        "--data_dir", default=".", help="the folder that the paths start from, as in train.py; read by --duplicates"
    )
    parser.add_argument(
        "--drop_static", action="store_true", help="without the quarter that moves least, as in the paper"
    )
    parser.add_argument(
        "--balance",
        choices=["motion"],
        help="at most as many rows of each eighth of the motion buckets as the median of them has",
    )
    parser.add_argument(
        "--split",
        type=float,
        help="hold this share of the videos out for validation, each with all "
        "its rows: train.py --train.validation.metadata reads them",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what --balance and --split draw")
    parser.add_argument("--workers", type=int, default=2, help="files looked at at the same time")
    parser.add_argument(
        "--scheduler",
        help="address of a Dask scheduler whose workers look at the files instead, such as tcp://HEAD:8786",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier call has written")
    options = parser.parse_args(argv)
    _check(options)
    chosen = Selection(*read_table(options.labels, REQUIRED))
    failures = select(chosen, options)
    _write(chosen, options)
    return 1 if failures else 0


def _check(options: Namespace) -> None:
    if options.workers < 1 or options.seed < 0:
        raise UserError(f"--workers must be at least 1 and --seed 0, not {options.workers} and {options.seed}")
    if options.split is not None and not 0 < options.split < 1:
        raise UserError(f"--split is a share between 0 and 1, not {options.split:g}")
    if not 0 <= options.near_distance < duplicates.BITS / 2:
        raise UserError(f"--near_distance must be from 0 to {duplicates.BITS // 2 - 1}, not {options.near_distance:g}")
    refuse_folder(options.output, "--output")
    for path in (options.output, _beside(options, "dropped"), _beside(options, "validation")):
        is_list = path.exists() and options.labels.exists() and path.samefile(options.labels)
        if path.exists() and (is_list or not options.overwrite):
            raise UserError(f"{path} exists: name another --output, or pass --overwrite (never for the list itself)")
    if options.duplicates == "near":
        duplicates.perceptual_hash()  # is there, or it is told now


def _beside(options: Namespace, what: str) -> Path:
    return options.output.with_name(f"{options.output.stem}.{what}{options.output.suffix}")


def _write(chosen: Selection, options: Namespace) -> None:
    columns, rows = tuple(chosen.table), chosen.rows
    for path in (options.output, *(_beside(options, what) for what in ("dropped", "validation"))):
        path.unlink(missing_ok=True)  # of an earlier call: what it held out may be trained on by this one
    if options.split is not None:
        paths = [_place(options.data_dir, path) for path in chosen.table["path"].iloc[rows]]
        apart = selection.held_out(paths, options.split, options.seed)
        write_rows(_beside(options, "validation"), columns, chosen.cells(rows[apart]))
        files = f"{len(set(np.array(paths)[apart]))} of {len(set(paths))} files"
        print(f"--split {options.split:g}: {apart.sum()} rows of {files} are in {_beside(options, 'validation')}")
        rows = rows[~apart]
    gone = sorted(chosen.reasons)
    if gone:
        dropped = (cells + (chosen.reasons[row],) for row, cells in zip(gone, chosen.cells(gone)))
        write_rows(_beside(options, "dropped"), (*columns, "reason"), dropped)
        print(f"{len(gone)} rows that went are in {_beside(options, 'dropped')}, each with its reason")
    write_rows(options.output, columns, chosen.cells(rows))
    scale = of_list(options.labels)
    beside(options.output).unlink(missing_ok=True)  # of an earlier call
    if scale is not None:  # the buckets are by it
        scale.save(beside(options.output))
    print(f"{len(rows)} of {len(chosen.table)} rows are in {options.output}")


if __name__ == "__main__":
    run_cli(main)
