"""Which clips of a list to train on: by an expression, without the stillest, evened out over motion, and held out."""

from __future__ import annotations

import ast
from collections.abc import Iterable

import numpy as np
import pandas as pd

from gm.errors import UserError

STATIC_SHARE = 0.25  # the paper's: the clips of the lowest quarter of motion are left out
_BINS = 8  # of motion buckets 0..255 that are evened out
# What an expression may be made of. Everything else, such as calls, attributes and pandas' own "@name", could run code.
_NODES = (
    ast.BoolOp,
    ast.And,
    ast.Or,
    ast.UnaryOp,
    ast.Not,
    ast.USub,
    ast.UAdd,
    ast.Invert,
    ast.BinOp,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.Div,
    ast.Mod,
    ast.BitAnd,
    ast.BitOr,
    ast.Compare,
    ast.Eq,
    ast.NotEq,
    ast.Lt,
    ast.LtE,
    ast.Gt,
    ast.GtE,
    ast.In,
    ast.NotIn,
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.List,
    ast.Tuple,
)
_TEXT_TESTS = ("contains", "startswith", "endswith")


def with_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """A copy of a table of strings for expressions: columns of numbers as such (empty cells NaN), `start` 0 where
    empty, and, unless they are there, `duration` in seconds (length / fps) and `aspect` (width / height)."""
    found = {}
    for name in table:
        numbers = pd.to_numeric(table[name], errors="coerce")
        is_text = name == "path" or (numbers.isna() & (table[name] != "")).any() or numbers.isna().all()
        found[name] = table[name] if is_text else numbers
    numbers = pd.DataFrame(found)
    if "start" in numbers:
        numbers["start"] = pd.to_numeric(numbers["start"], errors="coerce").fillna(0)
    countable = {name for name in numbers if not _is_text(numbers[name])}
    for name, (upper, lower) in {"duration": ("length", "fps"), "aspect": ("width", "height")}.items():
        if name not in numbers and {upper, lower} <= countable:
            numbers[name] = numbers[upper] / numbers[lower]
    return numbers


def _is_text(column: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(column)


def where(numbers: pd.DataFrame, expression: str) -> np.ndarray:
    """bool array: the rows of which pandas' expression holds. Columns, numbers and text, comparisons, arithmetic, `in`,
    `and`, `or`, `not`; of text `path.str.contains("x")`, `startswith`, `endswith`. An empty cell fulfils none
    but `!=` and `not in`.

    UserError, in one line: not such an expression, a column that is not there, text compared with numbers.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise UserError(f"--where: {expression!r} is no expression: {getattr(error, 'msg', error)}") from error
    _check(tree.body, expression)
    missing = sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - set(numbers))
    if missing:
        raise UserError(f"--where: no column {', '.join(missing)}; there are {', '.join(numbers)}")
    try:
        kept = numbers.eval(expression.strip(), engine="python", local_dict={}, global_dict={})
    except Exception as error:  # whatever pandas makes of it is the expression's fault
        reason = " ".join(str(error).split())
        raise UserError(f"--where: {expression!r} cannot be computed: {reason}") from error
    if not isinstance(kept, pd.Series) or not pd.api.types.is_bool_dtype(kept):
        raise UserError(f"--where: {expression!r} is not true or false for each row; compare, as in length > 40")
    return kept.fillna(False).to_numpy(bool)


def _check(node: ast.AST, expression: str) -> None:
    if isinstance(node, ast.Call):
        name, text = node.func, getattr(node.func, "value", None)
        good = (
            isinstance(name, ast.Attribute) and name.attr in _TEXT_TESTS and isinstance(text, ast.Attribute)
            and text.attr == "str" and isinstance(text.value, ast.Name) and not node.keywords
            and len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
        )  # fmt: skip
        if good:
            return
    if not isinstance(node, _NODES):
        part = ast.get_source_segment(expression.strip(), node) or type(node).__name__
        raise UserError(
            f"--where: {part!r} may not be in an expression: columns, numbers, text, comparisons, arithmetic, and, or, "
            f"not, in, and of a text column .str.{', .str.'.join(_TEXT_TESTS)}"
        )
    for child in ast.iter_child_nodes(node):
        _check(child, expression)


def moving(numbers: pd.DataFrame) -> np.ndarray:
    """bool array without the stillest STATIC_SHARE of the rows, by motion_score or, where it is not there, by bucket;
    of equal ones the later go. A row without a score counts as the stillest."""
    scores = _motion(numbers)
    order = np.lexsort((-np.arange(len(scores)), scores))
    kept = np.ones(len(scores), bool)
    kept[order[: int(STATIC_SHARE * len(scores))]] = False
    return kept


def _motion(numbers: pd.DataFrame) -> np.ndarray:
    name = "motion_score" if "motion_score" in numbers else "motion_bucket_id"
    if name not in numbers or _is_text(numbers[name]):
        raise UserError(f"the column {name} must hold numbers")
    return numbers[name].fillna(-1).to_numpy(float)


def balanced(numbers: pd.DataFrame, seed: int) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """(bool array, [(first bucket, last bucket, rows before, rows after)]): of each eighth of the motion buckets at
    most as many rows, drawn from the seed, as the median of the eighths that have any."""
    if _is_text(numbers["motion_bucket_id"]):
        raise UserError("the column motion_bucket_id must hold numbers")
    bins = (numbers["motion_bucket_id"].fillna(0).to_numpy(float).clip(0, 255) * _BINS / 256).astype(int)
    counts = np.bincount(bins, minlength=_BINS)
    most = int(np.ceil(np.median(counts[counts > 0])))
    kept, width, report = np.zeros(len(bins), bool), 256 // _BINS, []
    for number in range(_BINS):
        rows = np.flatnonzero(bins == number)
        chosen = np.random.default_rng((seed, number)).permutation(rows)[:most]
        kept[chosen] = True
        report.append((number * width, (number + 1) * width - 1, len(rows), len(chosen)))
    return kept, report


def held_out(paths: Iterable[str], share: float, seed: int) -> np.ndarray:
    """bool array: rows of a share of the files, drawn from the seed: at least one file, and one is left. All rows of a
    file are on the same side. UserError: all rows are of one file."""
    files = pd.unique(pd.Series(list(paths)))
    if len(files) < 2:
        raise UserError("--split: all rows are of one file, none can be held out")
    count = min(max(1, round(share * len(files))), len(files) - 1)
    apart = set(np.random.default_rng(seed).permutation(len(files))[:count].tolist())
    chosen = {file for index, file in enumerate(files) if index in apart}
    return np.array([path in chosen for path in paths])
