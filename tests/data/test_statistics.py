import sys

import numpy as np
import pytest
from PIL import Image

from gm.data import statistics
from gm.data.metadata import read_metadata
from gm.errors import UserError


@pytest.fixture
def labels(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "labels.csv").write_text(
        "path,length,motion_bucket_id, width ,height,fps,note,black\n"
        "a.mp4,20,10,64,32,10,x,0.5\n\nb.mp4,30,20,32,64,,x,\nc.mp4,3,30,,,30,x,odd\n"
    )
    return tmp_path / "labels.csv"


def test_what_is_known_of_the_clips_is_collected(labels):
    found = statistics.collect(labels, read_metadata(labels, labels.parent, 5, 2))
    expected = {
        "length": [20, 30, 3], "duration": [2, 0.1], "fps": [10, 30], "motion_bucket_id": [10, 20, 30],
        "width": [64, 32], "height": [32, 64], "aspect": [2, 0.5], "black": [0.5],
    }  # fmt: skip
    assert {name: values.tolist() for name, values in found.items()} == expected
    opened = statistics.collect(labels, read_metadata(labels, labels.parent, 5, 2), [(10, 30), (10, 10)])
    assert opened["aspect"].tolist() == [3, 1] and opened["width"].tolist() == [30, 10]


def test_the_table_tells_quartiles():
    text = statistics.table({"length": np.arange(101.0), "fps": np.zeros(0)})
    assert text.splitlines()[1].split() == ["length", "101", "0", "25", "50", "75", "100", "frames"]
    assert "fps" not in text


def test_the_picture_shows_what_there_is(tmp_path):
    numbers = {"length": np.random.default_rng(0).normal(100, 9, 500), "motion_bucket_id": np.arange(0.0, 256)}
    statistics.write_picture(numbers, tmp_path / "a.picture")
    with Image.open(tmp_path / "a.picture") as picture:
        assert picture.format == "PNG" and picture.size == (1200, 700)
        first = np.asarray(picture.convert("RGB"))
    statistics.write_picture({**numbers, "length": numbers["length"] * 2 + 1e4}, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as picture:
        assert (np.asarray(picture.convert("RGB")) != first).any()
    with pytest.raises(UserError, match="cannot write"):
        statistics.write_picture(numbers, tmp_path / "none" / "a.png")


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="pip install -r requirements-data.txt"):
        statistics.require_matplotlib()
