"""Training from encoded clips."""

from __future__ import annotations

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

import train
from gm.checkpoint.formats import open_checkpoint
from gm.data.clips import CONTENT
from gm.errors import UserError
from gm.training.cache import CachedClips
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


@pytest.mark.parametrize(
    "change, what",
    [
        ("train.dataset.init_args.height=32", "height: 16 there, 32 here"),
        ("train.dataset.init_args.step=3", "step: 2 there, 3 here"),
        ("train.seed=5", "seed: 42 there, 5 here"),
        ("train.loss.cond_aug_std=0.1", "cond_aug"),
    ],
)
def test_a_cache_of_other_settings_is_refused(arguments, tmp_path, change, what):
    cache = f"train.cache={tmp_path / 'cache'}"
    train.main(arguments(tmp_path / "first", cache))
    with pytest.raises(UserError, match="made for something else") as error:
        train.main(arguments(tmp_path / "second", cache, change))
    assert what in str(error.value) and "train.cache" in str(error.value)


def test_a_cache_of_another_checkpoint_or_file_is_refused(arguments, clips, tmp_path):
    cache = tmp_path / "cache"
    videos = shutil.copytree(clips, tmp_path / "videos")
    here = (
        f"train.cache={cache}",
        f"train.dataset.init_args.data_dir={videos}",
        f"train.dataset.init_args.metadata={videos / 'labels.csv'}",
    )
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


def test_a_cache_knows_every_tensor_and_what_no_shape_tells(arguments, model_path, checkpoint, tmp_path, capsys):
    cache, second = f"train.cache={tmp_path / 'cache'}", tmp_path / "second"
    train.main(arguments(tmp_path / "first", cache))
    with open_checkpoint(checkpoint) as file:
        tensors = {name: np.array(file.read(name)) for name in file.names()}
    # 12 tensors, which the hash of earlier versions was of, do not include this one.
    (name,) = (name for name in tensors if name.endswith("embedders.3.encoder.quant_conv.weight"))
    save_file({**tensors, name: tensors[name] + np.float32(0.1)}, tmp_path / "other.safetensors")
    (tmp_path / "heads.yaml").write_text(f"base: {model_path}\nmodel: {{clip: {{head_width: 8}}}}\n")
    other = f"train.pretrained={tmp_path / 'other.safetensors'}", "environment.fast_float32=True"
    with pytest.raises(UserError, match="made for something else") as error:
        train.main([f"--svd_config={tmp_path / 'heads.yaml'}", *arguments(second, cache, *other)[1:]])
    told = sorted(line.strip().partition(": ")[0] for line in str(error.value).splitlines()[1:])
    assert told == ["encoders (every tensor)", "environment.fast_float32", "model.clip.head_width"]
    record = tmp_path / "cache/training/cache.json"
    later = (CONTENT, "encoders (every tensor)", "model.clip.head_width", "environment.fast_float32")
    stored = json.loads(record.read_text())
    record.write_text(json.dumps({name: value for name, value in stored.items() if name not in later}))
    assert train.main([*arguments(second, cache), "--dry_run"]) == 0, "caches of earlier versions go on"
    record.unlink()
    assert train.main(arguments(second, cache)) == 0
    assert "3 samples in" in capsys.readouterr().err and json.loads(record.read_text()) == stored


def test_samples_without_a_record_are_not_trusted(tmp_path, capsys):
    """As where somebody deletes cache.json alone, because a cache was refused."""
    clips = filled(tmp_path)
    (tmp_path / "cache.json").unlink()
    assert clips.missing() == [0, 1, 2]
    clips.claim(clean=False)  # another device does so
    assert len(list(tmp_path.glob("clip-*"))) == 3
    clips.claim()
    assert not list(tmp_path.glob("clip-*")), "or those that are left when it is killed would have a record"
    assert "3 samples in" in capsys.readouterr().err


def test_a_cache_that_another_run_has_filled_meanwhile_is_compared_again(tmp_path):
    slow = CachedClips(Clips(), tmp_path, 1, {"amp_level": "O0"})
    filled(tmp_path)  # of a run with other settings, which began later and is done already
    with pytest.raises(UserError, match="amp_level: None there, 'O0' here"):
        slow.claim()


def test_a_cache_that_was_made_from_more_is_refused(tmp_path):
    """As the random numbers of the second of several sizes, which is the first now."""
    record = tmp_path / "cache.json"
    record.write_text(json.dumps({"format": 1, "stream": 1}))
    with pytest.raises(UserError, match="stream: 1 there, None here"):
        CachedClips(Clips(), tmp_path, 1, {})


@pytest.mark.parametrize("content", ["{", "[1]", "null"])
def test_a_damaged_record_is_one_clear_message(tmp_path, content):
    (tmp_path / "cache.json").write_text(content)
    with pytest.raises(UserError, match="cache.json cannot be read"):
        CachedClips(Clips(), tmp_path, 1, {})


def test_a_dry_run_makes_no_cache(arguments, tmp_path):
    train.main([*arguments(tmp_path / "run", f"train.cache={tmp_path / 'cache'}"), "--dry_run"])
    assert not (tmp_path / "cache").exists()


class Clips:
    """Three clips, whose samples are their positions."""

    frames = 2

    def __len__(self):
        return 3

    def order(self, epoch):
        return np.arange(3)

    def identity(self):
        return {}

    def at(self, position):
        return {
            "pixels": np.full((2, 3, 4, 4), position, np.float32),
            "fps_id": 6.0,
            "motion_bucket_id": 1.0,
            "path": f"{position}.gif",
            "start": 0,
            "failures": [],
        }


class Direct:
    """Encoders that hand on what they are given."""

    def moments(self, pixels):
        return pixels[:, :2]

    def picture(self, picture, noise, cond_aug):
        return picture[0, :, 0, :1].reshape(1, 3), picture[:, :1]


def filled(folder, missing=None, encoders=Direct):
    clips = CachedClips(Clips(), folder, 1, {})
    loader = SimpleNamespace(workers=1, prefetch=1, max_failed_share=0.0)
    draws = SimpleNamespace(pixel_noise=0, cond_aug=np.float32(0.02))
    clips.fill(clips.missing() if missing is None else missing, encoders, lambda position: draws, loader)
    return clips


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:],
        lambda whole: whole[:-1],
        lambda whole: b"",
        lambda whole: whole.replace(b"checksum", b"checksun"),
    ],
    ids=["a bit", "the end", "all", "no checksum"],
)
def test_a_sample_that_is_not_as_it_was_written_is_told_and_made_anew(tmp_path, damage, capsys):
    clips = filled(tmp_path)
    path = tmp_path / "clip-000001-000.safetensors"
    whole = path.read_bytes()
    assert clips.missing() == [] and "warning" not in capsys.readouterr().err
    path.write_bytes(damage(whole))
    with pytest.raises(UserError, match="was damaged since training began: go on with --train.resume=latest"):
        clips.at(1)
    assert clips.missing() == [1] and clips.missing(first=0, every=2) == []
    told = capsys.readouterr().err
    assert "1 of the cache's samples are not as they were written and are made anew" in told and str(path) in told
    assert np.array_equal(filled(tmp_path).at(1)["moments"], Clips().at(1)["pixels"][:, :2])
    assert path.read_bytes() == whole


def test_stand_ins_are_told_each_time(tmp_path, capsys, monkeypatch):
    """Nothing else says that a clip is never trained on, as where a network disk failed for a moment."""
    at = Clips.at
    failed = {1: [("lost.gif", "unreadable"), ("too.gif", "unreadable")]}
    with monkeypatch.context() as patched:
        patched.setattr(Clips, "at", lambda self, n: {**at(self, n), "failures": failed.get(n, [])})
        filled(tmp_path)
    path = tmp_path / "clip-000001-000.safetensors"
    for _ in range(2):
        assert filled(tmp_path).missing() == []
        told = capsys.readouterr().err
        assert "1 of the cache's samples are of other clips" in told and f"{path}, in place of lost.gif" in told
    path.unlink()
    filled(tmp_path)
    assert filled(tmp_path).missing() == [] and "other clips" not in capsys.readouterr().err


def test_what_the_encoders_make_must_be_finite(tmp_path):
    class Broken(Direct):
        def moments(self, pixels):
            return np.where(np.arange(4) == 3, np.inf, pixels[:, :2])

    with pytest.raises(UserError, match="NaN or infinite values of 0.gif"):
        filled(tmp_path, encoders=Broken)
    assert not list(tmp_path.glob("clip-*"))
