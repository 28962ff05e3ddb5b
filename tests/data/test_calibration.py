"""A scale of motion from a collection's own scores."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gm.data.calibration import NAME, Calibration, beside, of_list, of_weights
from gm.errors import UserError


def test_buckets_are_quantiles_of_the_collection():
    random = np.random.default_rng(0)
    scores = random.lognormal(1.0, 1.0, 5001)
    scale = Calibration.fit(scores.tolist())
    ordered = np.sort(scores)
    for share in (0, 0.25, 0.5, 0.75, 1):
        assert abs(scale.bucket(ordered[round(5000 * share)]) - 254 * share) <= 0.51
    assert scale.bucket(np.median(scores)) == 127 and scale.bucket(0.0) == 0 and scale.bucket(1e9) == 254
    shares = np.cumsum(np.bincount([scale.bucket(score) for score in scores], minlength=255)) / 5001
    assert len(shares) == 255 and np.all(np.abs(shares - np.arange(255) / 254) <= 1 / 254), "right to the bucket"
    buckets = [scale.bucket(score) for score in np.linspace(0, 50, 999)]
    assert buckets == sorted(buckets)


def test_still_clips_are_bucket_0_however_many():
    scale = Calibration.fit([0.0] * 60 + [1 + i / 10 for i in range(40)])
    assert scale.bucket(0) == 0 and 150 < scale.bucket(1.0) <= 154 and scale.bucket(5) == 254


def test_too_few_clips_make_no_scale():
    with pytest.raises(UserError, match="at least 20 clips with different motion scores, not 3: leave out --calibrate"):
        Calibration.fit([1.0, 2.0, 3.0] * 50)


def test_the_file_is_the_scale(tmp_path):
    scale = Calibration.fit([i / 7 for i in range(400)])
    labels = tmp_path / "my.labels.csv"
    scale.save(beside(labels))
    assert beside(labels).name == "my.labels.calibration.json" and beside(labels).stat().st_size < 6000
    assert Calibration.load(beside(labels)) == scale
    run = tmp_path / "run"
    (run / "weights").mkdir(parents=True)
    assert of_list(labels) == scale and of_list(tmp_path / "other.csv") is None
    assert of_weights(run / "weights/delta.safetensors") is None
    scale.save(run / NAME)
    for weights in (run / "weights/delta.safetensors", run / "delta.safetensors"):
        assert of_weights(weights) == (run / "calibration.json", scale)


def test_it_is_said_in_words():
    scale = Calibration.fit([float(i) for i in range(255)])
    assert scale.describe(127) == "the median motion of the 255 clips that the scale was fitted to (score 127)"
    assert scale.describe(63.5).startswith("more motion than in 25% of the 255 clips")
    assert scale.describe(255).startswith("more motion than in 100%")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "another"},
        {"clips": 0},
        {"scores": [1.0] * 254},
        {"scores": [1.0] * 255},
        {"scores": None},
        {"scores": [2.0, 1.0] + [3.0] * 253},
        {"scores": [1.0] * 254 + [float("nan")]},
        {"scores": ["x"] * 255},
    ],
)
def test_a_damaged_file_is_told(tmp_path, change):
    scale = Calibration.fit([float(i) for i in range(255)])
    scale.save(tmp_path / "c.json")
    found = {**json.loads((tmp_path / "c.json").read_text()), **change}
    (tmp_path / "c.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match="is no motion calibration"):
        Calibration.load(tmp_path / "c.json")
    with pytest.raises(UserError, match="cannot read the motion calibration"):
        Calibration.load(tmp_path / "none.json")
