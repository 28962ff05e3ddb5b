"""Training from encoded clips."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

import train
from gm.checkpoint.formats import open_checkpoint
from gm.errors import UserError
from gm.training.examples import Encoders

VALIDATION = ("train.validation.share=0.34", "train.validation.every=1", "train.validation.clips=1")
FLIP = "train.dataset.init_args.flip=0.5"


def losses(metrics):
    return [(line["kind"], line["loss"]) for line in metrics]


def weights(folder):
    with open_checkpoint(folder / "weights/delta.safetensors") as file:
        found = {name: np.array(file.read(name)) for name in file.names()}
    assert all(np.isfinite(array).all() for array in found.values()), "two sides of NaN are not the same"
    return found


def test_the_loss_and_the_weights_are_those_without_a_cache(arguments, tmp_path, read_metrics):
    """As many epochs as the cache holds: every number is the same."""
    common = (*VALIDATION, FLIP, "train.max_steps=6", "train.epochs=3", "train.cache_epochs=3")
    for name, more in (("live", ()), ("cached", (f"train.cache={tmp_path / 'cache'}",))):
        assert train.main(arguments(tmp_path / name, *common, *more)) == 0
    assert losses(read_metrics(tmp_path / "live")) == losses(read_metrics(tmp_path / "cached"))
    live, cached = weights(tmp_path / "live"), weights(tmp_path / "cached")
    assert live and all(np.array_equal(live[name], cached[name]) for name in live)
    assert len(list((tmp_path / "cache/training").glob("clip-*"))) == 2 * 3
    assert len(list((tmp_path / "cache/validation").glob("clip-*"))) == 1


def test_a_complete_cache_needs_neither_encoders_nor_videos_decoded(arguments, tmp_path, read_metrics, monkeypatch):
    cache = f"train.cache={tmp_path / 'cache'}"
    train.main(arguments(tmp_path / "first", cache))
    monkeypatch.setattr(Encoders, "__init__", lambda *_: pytest.fail("the encoders were loaded"))
    monkeypatch.setattr("gm.data.clips.open_clip", lambda *_: pytest.fail("a video was opened"))
    train.main(arguments(tmp_path / "second", cache))
    assert losses(read_metrics(tmp_path / "first")) == losses(read_metrics(tmp_path / "second"))


def test_what_is_missing_is_made_and_the_rest_is_kept(arguments, tmp_path):
    cache = tmp_path / "cache"
    train.main(arguments(tmp_path / "first", f"train.cache={cache}"))
    files = sorted((cache / "training").glob("clip-*"))
    assert len(files) == 3
    before = files[0].stat().st_mtime_ns, files[1].read_bytes()
    files[1].unlink()
    train.main(arguments(tmp_path / "second", f"train.cache={cache}"))
    assert (files[0].stat().st_mtime_ns, files[1].read_bytes()) == before


@pytest.mark.parametrize("change, what", [
    ("train.dataset.init_args.height=32", "height: 16 there, 32 here"),
    ("train.dataset.init_args.step=3", "step: 2 there, 3 here"),
    ("train.seed=5", "seed: 42 there, 5 here"),
    ("train.loss.cond_aug_std=0.1", "cond_aug"),
])
def test_a_cache_of_other_settings_is_refused(arguments, tmp_path, change, what):
    cache = f"train.cache={tmp_path / 'cache'}"
    train.main(arguments(tmp_path / "first", cache))
    with pytest.raises(UserError, match="made for something else") as error:
        train.main(arguments(tmp_path / "second", cache, change))
    assert what in str(error.value) and "train.cache" in str(error.value)


def test_a_cache_of_another_checkpoint_or_file_is_refused(arguments, clips, tmp_path):
    cache = tmp_path / "cache"
    videos = shutil.copytree(clips, tmp_path / "videos")
    here = (f"train.cache={cache}", f"train.dataset.init_args.data_dir={videos}",
            f"train.dataset.init_args.metadata={videos / 'labels.csv'}")
    train.main(arguments(tmp_path / "first", *here))
    record = cache / "training/cache.json"
    stored = json.loads(record.read_text())
    record.write_text(json.dumps({**stored, "encoders": "0123456789abcdef"}))
    with pytest.raises(UserError, match="encoders: '0123456789abcdef' there"):
        train.main(arguments(tmp_path / "second", *here))
    record.write_text(json.dumps(stored))
    os.utime(videos / "1.gif", (1, 1))
    with pytest.raises(UserError, match="clips "):
        train.main(arguments(tmp_path / "second", *here))


def test_a_damaged_record_is_one_clear_message(arguments, tmp_path):
    (tmp_path / "cache/training").mkdir(parents=True)
    (tmp_path / "cache/training/cache.json").write_text("{")
    with pytest.raises(UserError, match="cache.json cannot be read"):
        train.main(arguments(tmp_path / "run", f"train.cache={tmp_path / 'cache'}"))


def test_a_dry_run_makes_no_cache(arguments, tmp_path):
    train.main([*arguments(tmp_path / "run", f"train.cache={tmp_path / 'cache'}"), "--dry_run"])
    assert not (tmp_path / "cache").exists()
