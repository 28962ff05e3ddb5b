import csv

import pytest

from gm.data.calibration import Calibration, beside, of_list
from gm.data.metadata import read_metadata
from gm.errors import UserError
from svd_tools import select_clips as tool

HEAD = ["path", "length", "motion_bucket_id", "fps", "motion_score", "start", "note"]


@pytest.fixture
def labels(tmp_path):
    """40 rows, two of each file; scores 0 … 39."""
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(HEAD)
        for number in range(40):
            name = f"v, {number // 2}.mp4" if number else " v\r0.mp4"
            rows.writerow([name, 20 + number, 6 * number, 10, number, 100 * (number % 2), 'a "note"'])
            (tmp_path / name).touch()
    return tmp_path / "labels.csv"


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def call(labels, *options):
    output = labels.with_name("out.csv")
    return tool.main([str(labels), f"--output={output}", f"--data_dir={labels.parent}", *options]), output


def test_rows_are_chosen_and_the_rest_is_told_with_its_reason(labels, capsys):
    status, output = call(labels, "--where", "motion_score > 1 and duration > 2.5")
    assert status == 0
    before, kept, gone = rows_of(labels), rows_of(output), rows_of(output.with_name("out.dropped.csv"))
    assert kept == [row for row in before if int(row["motion_score"]) > 5], "unchanged, in the same order"
    assert [{k: v for k, v in row.items() if k != "reason"} for row in gone] == before[:6]
    assert {row["reason"] for row in gone} == {"not motion_score > 1 and duration > 2.5"}
    told = capsys.readouterr().out
    assert "6 rows go, 34 stay" in told and "34 of 40 rows are in" in told
    assert len(read_metadata(output, labels.parent, 3, 2).clips) == 34


def test_a_scale_of_motion_goes_with_the_chosen_rows(labels):
    scale = Calibration(tuple(float(n) for n in range(255)), 40)
    scale.save(beside(labels))
    _, output = call(labels)
    assert of_list(output) == scale
    beside(labels).unlink()
    call(labels, "--overwrite")
    assert of_list(output) is None


def test_all_steps_together(labels, capsys):
    steps = "--where=length >= 24", "--drop_static", "--balance=motion", "--split=0.2", "--seed=5"
    status, output = call(labels, *steps)
    told = capsys.readouterr().out
    assert "4 rows go, 36 stay" in told and "--drop_static: 9 rows go, 27 stay" in told
    held, kept, gone = (rows_of(output.with_name(f"out{what}.csv")) for what in (".validation", "", ".dropped"))
    assert len(held) + len(kept) + len(gone) == 40
    assert not {row["path"] for row in held} & {row["path"] for row in kept}
    files = {row["path"] for row in held + kept}
    assert len({row["path"] for row in held}) == round(0.2 * len(files))
    assert all(int(row["motion_score"]) >= 13 for row in held + kept)
    first = {path.name: path.read_bytes() for path in labels.parent.glob("out*")}
    call(labels, *steps, "--overwrite")
    assert first == {path.name: path.read_bytes() for path in labels.parent.glob("out*")}


def test_nothing_of_an_earlier_call_is_left(labels):
    """Rows that it held out, and this call does not, would be trained on and validated with."""
    _, output = call(labels, "--where=length > 30", "--split=0.3")
    beside_it = [output.with_name(f"out.{what}.csv") for what in ("validation", "dropped")]
    assert all(path.exists() for path in beside_it)
    call(labels, "--overwrite")
    assert len(rows_of(output)) == 40 and not any(path.exists() for path in beside_it)


def test_duplicates_go(labels, monkeypatch, capsys):
    for path in labels.parent.glob("*.mp4"):
        path.write_bytes(path.name.encode())
    (labels.parent / "v, 7.mp4").write_bytes((labels.parent / "v, 3.mp4").read_bytes())
    lines = labels.read_text().replace("34,84,10,14,0", "26,84,10,14,0")  # as long as line 8
    labels.write_text(lines)
    status, output = call(labels, "--duplicates=exact")
    (gone,) = rows_of(output.with_name("out.dropped.csv"))
    assert status == 0 and gone["path"] == "v, 7.mp4" and gone["reason"] == "the same bytes as line 9: v, 3.mp4"


def test_near_duplicates_that_cannot_be_compared_stay_and_are_told(labels, capsys):
    for path in labels.parent.glob("*.mp4"):
        path.write_text(f"no video {path.name}")
    status, output = call(labels, "--duplicates=near")
    assert status == 1 and len(rows_of(output)) == 40
    assert capsys.readouterr().err.count("stays, as it cannot be compared") == 40


def test_wrong_calls_are_refused(labels, tmp_path):
    for options, reason in [
        (["--where=lenght > 3"], "no column lenght; there are path, length"),
        (["--where=length > 1000"], "no row would stay; nothing is written"),
        (["--split=1.5"], "--split is a share between 0 and 1, not 1.5"),
        (["--near_distance=40"], "--near_distance must be from 0 to 31, not 40"),
        (["--output=."], "--output=. is a folder: name the file"),
        (["--workers=0"], "--workers must be at least 1"),
        ([f"--output={labels}", "--overwrite"], "labels.csv exists"),
    ]:
        with pytest.raises(UserError, match=reason):
            call(labels, *options)
        assert not labels.with_name("out.csv").exists()
    labels.with_name("out.csv").touch()
    with pytest.raises(UserError, match="out.csv exists: name another --output, or pass --overwrite"):
        call(labels)
    labels.unlink()
    with pytest.raises(UserError, match="no metadata file at .*labels.csv"):
        call(labels, "--overwrite")
