import numpy as np
import pandas as pd
import pytest

from gm.data import selection
from gm.errors import UserError

TABLE = pd.DataFrame({
    "path": ["a.mp4", "b.mp4", "sub/c.mp4", "d.mp4"], "crop": ["", "2:2:0:0", "", ""],
    "length": ["20", "60", "90", "40"], "fps": ["10", "", "30", "20"],
    "motion_bucket_id": ["10", "20", "30", "40"], "motion_score": ["0.5", "2", "3", ""],
    "start": ["", "5", "0", ""], "width": ["64", "64", "128", "64"], "height": ["64", "32", "64", "64"],
})  # fmt: skip
NUMBERS = selection.with_numbers(TABLE)


@pytest.mark.parametrize(
    "expression, rows",
    [
        ("motion_score > 1 and duration > 2", [2]),
        ("motion_score > 1", [1, 2]),
        ("not motion_score > 1", [0, 3]),
        ("motion_score != 2", [0, 2, 3]),
        ("motion_score not in [2, 3]", [0, 3]),
        ("(length >= 60) | (motion_score < 1)", [0, 1, 2]),
        ("20 < length < 80", [1, 3]),
        ("aspect == 2", [1, 2]),
        ("start == 0", [0, 2, 3]),
        ("length / 2 - 10 > motion_bucket_id", [2]),
        ('path == "a.mp4" or crop != ""', [0, 1]),
        ('path in ["a.mp4", "d.mp4"]', [0, 3]),
        ('path.str.startswith("sub/")', [2]),
        ('~path.str.contains("^[ab]") and length > 40', [2]),
        (" length > 40 ", [1, 2]),
    ],
)
def test_expressions_choose_rows(expression, rows):
    assert np.flatnonzero(selection.where(NUMBERS, expression)).tolist() == rows


@pytest.mark.parametrize(
    "expression, reason",
    [
        ("speed > 1", "no column speed; there are path, crop, length"),
        ("length >", "is no expression: invalid syntax"),
        ("", "is no expression"),
        ("length = 3", "is no expression"),
        ("length", "is not true or false for each row"),
        ("3 > 2", "is not true or false for each row"),
        ("path > 3", "cannot be computed"),
        ('length == "a" + 1', "cannot be computed"),
        ("@pd.read_csv('x')", "is no expression"),
        ("length > 3 and @os.system('true')", "is no expression"),
        ("__import__('os').system('touch /tmp/x') == 0", "may not be in an expression"),
        ("length.__class__", "may not be in an expression"),
        ("path.str.contains(length)", "may not be in an expression"),
        ("path.str.__class__('x')", "may not be in an expression"),
        ("path.str.contains('[')", "cannot be computed"),
        ("length.eval('1')", "may not be in an expression"),
        ("9 ** 9 ** 9 > length", "may not be in an expression"),
        ("[x for x in path]", "may not be in an expression"),
        ("(lambda: 1)()", "may not be in an expression"),
        ("`length` > 3", "is no expression"),
        ("a\x00b", "is no expression"),
        ("(" * 500, "is no expression"),
        ("length > 3\nlength > 4", "is no expression"),
    ],
)
def test_what_is_no_safe_expression_is_told_in_one_line(expression, reason):
    with pytest.raises(UserError) as error:
        selection.where(NUMBERS, expression)
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_the_lowest_quarter_of_motion_goes():
    scores = [5, 1, 2, 3, 1, 9, 8, 7, 6, 4.0]
    kept = selection.moving(pd.DataFrame({"motion_score": scores}))
    assert np.flatnonzero(~kept).tolist() == [1, 4], "2 of 10"
    kept = selection.moving(pd.DataFrame({"motion_bucket_id": [3.0, 1, 1, 1]}))
    assert np.flatnonzero(~kept).tolist() == [3], "of equal ones the last"
    assert selection.moving(pd.DataFrame({"motion_score": [1.0, np.nan, 0, 2]})).tolist() == [True, False, True, True]
    with pytest.raises(UserError, match="motion_score must hold numbers"):
        selection.moving(pd.DataFrame({"motion_score": ["a", "b"]}))


def test_motion_is_evened_out():
    buckets = np.repeat([5, 40, 70, 200, 300], [100, 10, 20, 3, 2])
    numbers = pd.DataFrame({"motion_bucket_id": buckets})
    kept, report = selection.balanced(numbers, seed=1)
    counts = [(before, after) for *_, before, after in report if before]
    assert counts == [(100, 10), (10, 10), (20, 10), (3, 3), (2, 2)]
    assert report[0][:2] == (0, 31) and report[-1][:2] == (224, 255) and kept.sum() == 35
    assert (kept == selection.balanced(numbers, seed=1)[0]).all()
    assert (kept != selection.balanced(numbers, seed=2)[0]).any()


def test_a_file_is_on_one_side():
    paths = [f"{number % 40}.mp4" for number in range(100)]
    apart = selection.held_out(paths, 0.1, seed=3)
    held = {path for path, out in zip(paths, apart) if out}
    assert len(held) == 4 and not held & {path for path, out in zip(paths, apart) if not out}
    assert (apart == selection.held_out(paths, 0.1, seed=3)).all()
    assert selection.held_out(["a", "b"], 0.001, 0).sum() == 1 == (~selection.held_out(["a", "b"], 0.999, 0)).sum()
    with pytest.raises(UserError, match="all rows are of one file"):
        selection.held_out(["a", "a"], 0.5, 0)
