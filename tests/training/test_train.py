"""train.py from the command line to files that image_to_video.py can play, on a very small model in PyNative."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf
from safetensors.numpy import load_file, save_file

import train
from gm import locks, memory
from gm.checkpoint.delta import apply_delta
from gm.checkpoint.formats import open_checkpoint
from gm.data.calibration import Calibration, beside, of_weights
from gm.data.outputs import write_png
from gm.data.video_reader import open_video
from gm.errors import UserError
from gm.model import load_model_config
from gm.training.log import Log
from gm.training.memory import _remedies, needed
from gm.training.plan import Plan
from gm.training.settings import load_settings
from gm.training.signals import StopOnSignal
from gm.training.state import checkpoints, step_of
from gm.training.step import is_temporal
from gm.weights import Weights
from tests.near import difference

ROOT = Path(__file__).resolve().parents[2]


def read(path):
    checkpoint = open_checkpoint(path)
    found = {name: np.array(checkpoint.read(name)) for name in checkpoint.names()}
    assert all(np.isfinite(array).all() for array in found.values()), "two sides of NaN are not the same"
    return found


def changed(before, after):
    assert before.keys() == after.keys() != set()
    return {name for name in before if not np.array_equal(before[name], after[name])}


def test_temporal_only_changes_nothing_else(arguments, tmp_path, checkpoint, model_path, read_metrics):
    argv = arguments(
        tmp_path / "run",
        "train.save=full",
        "train.validation.share=0.4",
        "train.validation.clips=1",
        "train.validation.sigmas=[1.0, 10.0]",
        "train.ema=True",
        "train.max_steps=3",
    )
    assert train.main(argv) == 0
    before, after = read(checkpoint), read(tmp_path / "run/weights/full.safetensors")
    temporal = {name for name in before if name.startswith("model.diffusion_model.") and is_temporal(name)}
    found = changed(before, after)
    assert found <= temporal
    # With one context token q, k and norm of a cross-attention have no gradient; weight decay still shrinks q and k.
    assert temporal - found == {name for name in temporal if ".norm2." in name}
    Weights(load_model_config(model_path), tmp_path / "run/weights/full.safetensors")  # complete
    ema = read(tmp_path / "run/weights/full_ema.safetensors")
    assert changed(ema, after) and changed(before, ema) <= temporal

    lines = read_metrics(tmp_path / "run")
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert all(line["grad_norm"] > 0 and line["lr"] == 1e-3 and line["skipped"] == 0 for line in steps)
    assert all(len(line["sigma"]) == 1 and len(line["loss_by_sigma"]) == 1 for line in steps)
    validations = [line for line in lines if line["kind"] == "validation"]
    assert [line["step"] for line in validations] == [0, 3]
    assert set(validations[0]["loss_at"]) == {"1", "10"}
    assert validations[0]["loss"] != validations[1]["loss"]
    settings = OmegaConf.load(tmp_path / "run/settings.yaml")
    assert settings.train.validation.sigmas == [1.0, 10.0]
    assert "mindspore" in json.loads((tmp_path / "run/versions.json").read_text())


def test_the_older_ports_command(tmp_path, checkpoint, model_path, clips):
    """Its options as its users type them; a config of small numbers stands in for configs/svd_train.yaml."""
    config = tmp_path / "svd_train.yaml"
    config.write_text(
        f"base: {ROOT / 'configs/svd_train.yaml'}\ntrain:\n  dataset:\n    init_args:\n      height: 16\n"
        "      width: 16\n  loader: {workers: 1}\n"
    )
    assert (
        train.main(
            [
                f"--config={config}",
                f"--svd_config={model_path}",
                f"--train.pretrained={checkpoint}",
                f"--train.output_dir={tmp_path / 'run'}",
                "--environment.mode=1",
                "--train.temporal_only=True",
                "--train.epochs=1",
                "--train.dataset.init_args.frames=2",
                "--train.dataset.init_args.step=4",
                f"--train.dataset.init_args.data_dir={clips}",
                f"--train.dataset.init_args.metadata={clips / 'labels.csv'}",
            ]
        )
        == 0
    )
    assert (tmp_path / "run/weights/delta.safetensors").is_file()


def test_the_scale_of_motion_goes_with_the_weights(arguments, tmp_path, clips):
    labels, scale = tmp_path / "own.csv", Calibration(tuple(float(n) for n in range(255)), 300)
    labels.write_bytes((clips / "labels.csv").read_bytes())
    scale.save(beside(labels))
    data = f"train.dataset.init_args.metadata={labels}"
    assert train.main(arguments(tmp_path / "run", data, "train.max_steps=1")) == 0
    weights = tmp_path / "run/weights/delta.safetensors"
    assert weights.exists() and of_weights(weights) == (tmp_path / "run/calibration.json", scale)
    beside(labels).write_text("{}")
    with pytest.raises(UserError, match="is no motion calibration"):
        train.main(arguments(tmp_path / "other", data, "train.max_steps=1"))
    assert not (tmp_path / "other").exists()


def test_a_delta_on_its_base_is_the_trained_model(arguments, tmp_path, checkpoint, model_path):
    for kind in ("delta", "full"):
        assert train.main(arguments(tmp_path / kind, f"train.save={kind}")) == 0
    full = read(tmp_path / "full/weights/full.safetensors")
    delta = tmp_path / "delta/weights/delta.safetensors"
    assert delta.stat().st_size < 0.7 * checkpoint.stat().st_size
    weights = Weights(load_model_config(model_path), checkpoint)
    denoiser = weights.load("unet")
    assert apply_delta(denoiser, delta, weights) == []
    for p in denoiser.get_parameters():
        assert np.array_equal(p.asnumpy(), full[p.name])


def test_without_a_checkpoint_the_whole_unet_is_trained_from_random_values(arguments, tmp_path, model_path):
    argv = arguments(tmp_path / "run", "train.pretrained=null", "train.temporal_only=False", "train.save=full")
    assert train.main(argv) == 0
    Weights(load_model_config(model_path), tmp_path / "run/weights/full.safetensors")


def test_the_same_seed_gives_the_same_weights_and_another_does_not(arguments, tmp_path):
    runs = {"one": (), "again": ("train.loader.workers=3", "train.loader.prefetch=1"), "other": ("train.seed=1",)}
    for name, more in runs.items():
        assert train.main(arguments(tmp_path / name, *more)) == 0
    one, again, other = (read(tmp_path / name / "weights/delta.safetensors") for name in runs)
    assert not changed(one, again) and changed(one, other)


def test_two_batches_of_one_clip_are_one_batch_of_two(arguments, tmp_path):
    options = {"one": ["train.loader.batch_size=2"], "two": ["train.optimizer.accumulate=2"]}
    for name, option in options.items():
        # A large eps: where a gradient is zero but for rounding, Adam would make a whole step of the rounding.
        assert train.main(arguments(tmp_path / name, "train.optimizer.eps=1e-3", *option)) == 0
    one, two = (read(tmp_path / name / "weights/delta.safetensors") for name in options)
    assert difference(list(two.values()), list(one.values())) < 1e-6 and one.keys() == two.keys()


def test_float16(arguments, tmp_path, read_metrics):
    argv = arguments(tmp_path / "run", "train.amp_level=O2", "train.save=full", "train.loss_scale.initial=1024")
    assert train.main(argv) == 0
    lines = read_metrics(tmp_path / "run")
    assert [line["skipped"] for line in lines] == [0, 0] and lines[0]["loss_scale"] == 1024
    plain = tmp_path / "plain"
    assert train.main(arguments(plain, "train.save=full")) == 0
    assert lines[0]["loss"] == pytest.approx(read_metrics(plain)[0]["loss"], rel=0.02)
    assert lines[0]["grad_norm"] == pytest.approx(read_metrics(plain)[0]["grad_norm"], rel=0.05)
    stored = read(tmp_path / "run/weights/full.safetensors")
    assert all(value.dtype == np.float32 for value in stored.values())


def test_a_float16_overflow_skips_the_step_and_halves_the_scale(arguments, tmp_path, checkpoint, read_metrics):
    argv = arguments(
        tmp_path / "run",
        "train.amp_level=O2",
        "train.loss_scale.initial=16777216",
        "train.save=full",
        "train.max_steps=1",
    )
    with pytest.raises(UserError, match="none of the 1 steps changed the weights.*--train.resume=latest"):
        train.main(argv)
    (line,) = read_metrics(tmp_path / "run")
    assert line["skipped"] == 1 and line["loss_scale"] == 2.0**23 and line["grad_norm"] is None
    assert not changed(read(checkpoint), read(tmp_path / "run/weights/full.safetensors"))


def test_training_that_changed_nothing_does_not_end_well(arguments, tmp_path, checkpoint, capsys, read_metrics):
    tensors = load_file(checkpoint)
    tensors["model.diffusion_model.out.2.bias"][0] = np.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(UserError, match="none of the 7 steps changed the weights.*train.pretrained"):
        train.main(arguments(tmp_path / "run", f"train.pretrained={tmp_path / 'nan.safetensors'}", "train.max_steps=7"))
    told = [line for line in capsys.readouterr().err.splitlines() if "no update, as its loss is not finite" in line]
    assert len(told) == 5 and "further ones are only counted" in told[-1]
    assert read_metrics(tmp_path / "run")[-1]["skipped"] == 7


def test_resuming_ends_with_the_same_weights(arguments, tmp_path, read_metrics):
    common = ["train.ema=True", "train.checkpoint.every=2", "train.checkpoint.keep=9"]
    straight, parted = tmp_path / "straight", tmp_path / "parted"
    assert train.main(arguments(straight, *common, "train.max_steps=5")) == 0
    assert train.main(arguments(parted, *common, "train.max_steps=5")) == 0
    for path in checkpoints(parted / "checkpoints")[1:]:
        path.unlink()  # as if it had been killed after step 2
    assert train.main(arguments(parted, *common, "train.max_steps=5", "train.resume=latest")) == 0
    names = ["checkpoints/step-00000005.safetensors", "weights/delta.safetensors", "weights/delta_ema.safetensors"]
    for name in names:
        assert not changed(read(straight / name), read(parted / name)), name
    assert [line["step"] for line in read_metrics(parted)] == [1, 2, 3, 4, 5]


def test_a_resumed_run_with_other_settings_says_which(arguments, tmp_path, capsys):
    assert train.main(arguments(tmp_path / "run", "train.max_steps=1")) == 0
    assert train.main(arguments(tmp_path / "run", "train.max_steps=1", "train.resume=latest")) == 0
    assert "before" not in capsys.readouterr().err
    changed = ("train.max_steps=2", "train.resume=latest", "train.optimizer.learning_rate=2e-3")
    assert train.main(arguments(tmp_path / "run", *changed)) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "before" in line]
    assert said == [
        "warning: train.max_steps: 1 before, 2 now",
        "warning: train.optimizer.learning_rate: 0.001 before, 0.002 now",
    ]


def test_the_losses_before_a_stop_are_not_lost(arguments, tmp_path, read_metrics, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(StopOnSignal, "requested", True)
        assert train.main(arguments(tmp_path, "train.log.every=3", "train.max_steps=2")) == 128 + signal.SIGTERM
    assert train.main(arguments(tmp_path, "train.log.every=3", "train.max_steps=2", "train.resume=latest")) == 0
    assert [(line["step"], len(line["sigma"])) for line in read_metrics(tmp_path)] == [(1, 1), (2, 1)]


def test_a_video_that_was_replaced_is_told_when_the_run_goes_on(arguments, tmp_path, clips, capsys):
    shutil.copytree(clips, tmp_path / "clips")
    data = f"train.dataset.init_args.data_dir={tmp_path / 'clips'}"
    again = arguments(tmp_path / "run", data, "train.max_steps=1", "train.resume=latest")
    assert train.main(again) == 0
    shutil.copytree(tmp_path / "clips", tmp_path / "elsewhere")  # with other times
    assert train.main([*again, f"--train.dataset.init_args.data_dir={tmp_path / 'elsewhere'}"]) == 0
    assert "clips (some" not in capsys.readouterr().err
    (tmp_path / "clips/1.gif").write_bytes((clips / "2.gif").read_bytes())
    assert train.main(again) == 0
    assert "warning: clips (some of their content): " in capsys.readouterr().err


def test_weights_of_another_kind_than_the_last_do_not_pass_for_them(arguments, tmp_path, capsys):
    assert train.main(arguments(tmp_path, "train.save=delta", "train.max_steps=1")) == 0
    older = (tmp_path / "weights/delta.safetensors").read_bytes()
    assert train.main(arguments(tmp_path, "train.save=full", "train.resume=latest")) == 0
    names = {"full.safetensors", "earlier_delta.safetensors"}
    assert {path.name for path in (tmp_path / "weights").iterdir()} == names
    assert (tmp_path / "weights/earlier_delta.safetensors").read_bytes() == older
    assert "delta.safetensors is of an earlier step" in capsys.readouterr().err
    base = tmp_path / "weights/full.safetensors"  # is a model to start from in its own folder, and stays
    shutil.rmtree(tmp_path / "checkpoints")
    assert train.main(arguments(tmp_path, f"train.pretrained={base}", "train.max_steps=1")) == 0
    assert base.exists() and (tmp_path / "weights/delta.safetensors").exists()


def without_times(lines):
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_settings_that_no_step_was_made_with_are_not_those_of_the_run(arguments, tmp_path, capsys, monkeypatch):
    """Whoever saw the warning, stopped it at once and did the same again was told nothing."""
    assert train.main(arguments(tmp_path / "run", "train.max_steps=1")) == 0
    changed = arguments(tmp_path / "run", "train.max_steps=1", "train.resume=latest", "train.loss.p_mean=0.5")
    for _ in range(2):  # no step is left: as if stopped before the first
        assert train.main(changed) == 0
        assert "train.loss.p_mean: 1.0 before, 0.5 now" in capsys.readouterr().err


def test_a_run_that_was_killed_between_two_lines_of_metrics_loses_no_loss(arguments, tmp_path, read_metrics):
    common = ("train.log.every=3", "train.checkpoint.every=2", "train.checkpoint.keep=9", "train.max_steps=5")
    for run in ("straight", "killed"):
        assert train.main(arguments(tmp_path / run, *common)) == 0
    for path in checkpoints(tmp_path / "killed/checkpoints")[1:]:
        path.unlink()  # as if it had been killed after step 2
    assert train.main(arguments(tmp_path / "killed", *common, "train.resume=latest")) == 0
    straight, killed = (without_times(read_metrics(tmp_path / run)) for run in ("straight", "killed"))
    assert killed == straight and sum(len(line["sigma"]) for line in killed) == 5


def test_a_run_that_was_killed_before_its_first_checkpoint_leaves_no_line(arguments, tmp_path, read_metrics):
    common = ("train.validation.share=0.4", "train.max_steps=1")
    assert train.main(arguments(tmp_path, *common)) == 0
    straight = without_times(read_metrics(tmp_path))
    for more in ((), ("train.resume=latest",)):
        for path in checkpoints(tmp_path / "checkpoints"):
            path.unlink()
        assert train.main(arguments(tmp_path, *common, *more)) == 0
        assert without_times(read_metrics(tmp_path)) == straight


def test_settings_are_compared_with_those_of_the_run_that_the_checkpoint_is_of(arguments, model_path, tmp_path, capsys):
    assert train.main(arguments(tmp_path / "run", "train.max_steps=1")) == 0
    (tmp_path / "heads.yaml").write_text(f"base: {model_path}\nmodel: {{clip: {{head_width: 8}}}}\n")
    (source,) = checkpoints(tmp_path / "run/checkpoints")
    changed = (f"train.resume={source}", "train.max_steps=1", "train.loss.p_mean=0.5")
    argv = arguments(tmp_path / "other", *changed)[1:]
    assert train.main([f"--svd_config={tmp_path / 'heads.yaml'}", *argv]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "before" in line]
    assert said == [
        "warning: train.loss.p_mean: 1.0 before, 0.5 now",
        f"warning: model.clip.head_width: {load_model_config(model_path).model.clip.head_width} before, 8 now",
    ]


def test_another_size_than_the_models_is_a_warning(arguments, tmp_path, capsys):
    train.main([*arguments(tmp_path / "run"), "--dry_run"])
    assert "the model was trained at 576x1024 (height x width), the clips are 16x16" in capsys.readouterr().err


def test_missing_tensorboard_is_told_before_the_cache_is_made(arguments, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    cache = f"train.cache={tmp_path / 'cache'}"
    for more in ([], ["--dry_run"]):
        with pytest.raises(UserError, match="pip install tensorboardX"):
            train.main([*arguments(tmp_path / "run", cache, "train.log.tensorboard=True"), *more])
    assert not (tmp_path / "cache").exists()


def test_what_does_not_fit_is_refused_before_anything_is_encoded(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "resident_memory", lambda: 0)
    monkeypatch.setattr(memory, "available_memory", lambda: 1e8)
    argv = arguments(tmp_path / "run", f"train.cache={tmp_path / 'cache'}", "train.max_steps=1")
    for more in ([], ["--dry_run"]):
        with pytest.raises(UserError, match=r"not enough memory: training needs about 0\.\d GB, and 0\.1 GB are free"):
            train.main([*argv, *more])
    assert not (tmp_path / "cache").exists()
    assert train.main([*argv, "--memory_check=off"]) == 0


def test_the_remedies_of_training_take_less(arguments, tmp_path):
    settings = load_settings(
        ROOT / "configs/svd_train.yaml",
        [
            option[2:]
            for option in arguments(tmp_path / "run", "train.loader.batch_size=4", "train.dataset.init_args.height=48")[
                1:
            ]
        ],
    )
    plan = Plan(settings, load_model_config(arguments(tmp_path)[0].partition("=")[2]))
    sizes = {words: memory.peak(stages()) for words, stages in _remedies(plan)}
    now = memory.peak(needed(plan))
    assert sizes["--train.loader.batch_size=1"] < now and sizes["--train.cache=FOLDER"] < now
    assert list(sizes.values())[-1] == min(sizes.values())
    assert list(sizes)[0] == "--train.cache=FOLDER" and "--train.dataset.init_args.height=6 " in list(sizes)[-1]


def test_a_folder_with_a_run_is_not_written_over(arguments, tmp_path):
    argv = arguments(tmp_path / "run", "train.max_steps=1")
    assert train.main(argv) == 0
    with pytest.raises(UserError, match="--train.resume=latest"):
        train.main(argv)


def test_a_run_has_one_owner_and_its_own_clips(arguments, tmp_path, clips, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    lock = locks.take(folder / ".lock")
    for more in ((), ("train.resume=latest",)):
        with pytest.raises(UserError, match="another run is writing to .*run"):
            train.main(arguments(folder, *more))
    lock.release()
    with monkeypatch.context() as full:
        full.setattr("gm.files.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(UserError, match="not enough disk space in .*run"):
            train.main(arguments(folder))
    assert not (folder / "metrics.jsonl").exists()
    assert train.main(arguments(folder)) == 0
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b"\xff\xfe no UTF-8\n[1]\n")
    assert train.main(arguments(folder, "train.max_steps=3", "train.resume=latest")) == 0
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3] and not list(folder.rglob(".*"))
    other = tmp_path / "other.csv"
    other.write_text((clips / "labels.csv").read_text().replace("2.gif,8,150", "2.gif,8,250"))
    with pytest.raises(UserError, match=r"training clips \(names, lengths, labels\) was"):
        train.main(arguments(folder, "train.resume=latest", f"train.dataset.init_args.metadata={other}"))


def test_a_cache_is_filled_by_one_run(arguments, tmp_path):
    (tmp_path / "cache").mkdir()
    lock = locks.take(tmp_path / "cache" / ".lock")
    with pytest.raises(UserError, match="another run is filling"):
        train.main(arguments(tmp_path / "run", f"train.cache={tmp_path / 'cache'}"))
    lock.release()


def test_an_output_folder_that_is_deleted_during_the_run_is_made_again(arguments, tmp_path, monkeypatch):
    advance = Log.advance

    def deleting(self, *numbers):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        advance(self, *numbers)

    monkeypatch.setattr(Log, "advance", deleting)
    assert train.main(arguments(tmp_path / "run")) == 0
    assert (tmp_path / "run/weights/delta.safetensors").exists() and len(checkpoints(tmp_path / "run/checkpoints")) == 1


def test_an_older_checkpoint_is_not_resumed_beside_later_ones(arguments, tmp_path):
    folder, other = tmp_path / "run", tmp_path / "other"
    assert train.main(arguments(folder, "train.checkpoint.every=1")) == 0
    oldest = checkpoints(folder / "checkpoints")[0]
    with pytest.raises(UserError, match="step-00000002.safetensors is later"):
        train.main(arguments(folder, f"train.resume={oldest}"))
    assert train.main(arguments(other, f"train.resume={oldest}")) == 0
    assert not changed(*(read(run / "weights/delta.safetensors") for run in (folder, other)))


def test_too_many_unreadable_clips_end_the_run_with_its_steps_saved(arguments, clips, tmp_path):
    bad = tmp_path / "clips"
    shutil.copytree(clips, bad)
    lines = (bad / "labels.csv").read_text().splitlines()
    for k in range(3, 9):
        (bad / f"{k}.gif").write_text("not a video")
        lines.append(f"{k}.gif,8,100")
    (bad / "labels.csv").write_text("\n".join(lines) + "\n")
    data = [f"train.dataset.init_args.data_dir={bad}", f"train.dataset.init_args.metadata={bad / 'labels.csv'}"]
    limit = "train.loader.max_failed_share=0.3"
    with pytest.raises(UserError, match="cannot be decoded"):
        train.main(arguments(tmp_path / "run", *data, "train.max_steps=50", "train.log.every=99", limit))
    steps = [line["step"] for line in map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())]
    saved = checkpoints(tmp_path / "run/checkpoints")
    assert [step_of(path) for path in saved] == steps[-1:]
    assert (tmp_path / "run/weights/delta.safetensors").exists()


def test_a_full_disk_ends_the_run_with_its_steps_saved(arguments, tmp_path, monkeypatch):
    class Full(io.TextIOWrapper):
        def write(self, text):
            if '"step": 3' in text:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(text)

    monkeypatch.setattr("gm.training.log.open", lambda path, *_, **__: Full(io.FileIO(path, "a")), raising=False)
    with pytest.raises(UserError, match="metrics.jsonl: No space left"):
        train.main(arguments(tmp_path, "train.max_steps=9"))
    assert [step_of(path) for path in checkpoints(tmp_path / "checkpoints")] == [3]


def test_epochs_count_clips_also_when_the_batch_has_changed(arguments, tmp_path, capsys):
    epochs = ["train.epochs=4", "train.max_steps=null"]
    train.main(arguments(tmp_path, "train.epochs=2", "train.max_steps=null"))  # 6 of the 12 clips
    train.main(arguments(tmp_path, *epochs, "train.resume=latest", "train.loader.batch_size=2"))
    told = capsys.readouterr()
    assert "3 clips, 9 steps of 2 clips" in told.out
    assert "warning: clips of a step, over all devices: 1 before, 2 now" in told.err
    assert step_of(checkpoints(tmp_path / "checkpoints")[-1]) == 9


def test_a_larger_batch_in_the_midst_of_an_epoch_leaves_no_clip_out(arguments, tmp_path, capsys, caplog):
    """Its batches begin at multiples of their size: what is shown twice for that does not stand for what is left."""
    epochs = ["train.max_steps=null", "train.resume=latest"]
    train.main(arguments(tmp_path, *epochs, "train.epochs=2"))
    for _ in range(2):  # the second time all of them have been shown
        train.main(arguments(tmp_path, *epochs, "train.epochs=2", "train.loader.batch_size=4"))
    assert step_of(checkpoints(tmp_path / "checkpoints")[-1]) == 6 and not caplog.records
    for _ in range(2):
        train.main(arguments(tmp_path, *epochs, "train.epochs=3", "train.loader.batch_size=4"))
    assert "3 clips, 8 steps of 4 clips" in capsys.readouterr().out
    assert [record.args for record in caplog.records] == [(2,)]


def test_what_a_killed_export_left_is_removed(arguments, tmp_path):
    for folder in ("weights", "checkpoints", "."):
        (tmp_path / folder / ".tmp-svd-01234567").mkdir(0o700, parents=True)
        (tmp_path / folder / ".tmp-svd-01234567" / "delta.safetensors").write_bytes(b"half")
    train.main(arguments(tmp_path))
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["delta.safetensors"]
    assert not list(tmp_path.rglob(".*"))


def test_resume_latest_of_a_new_folder_starts_at_the_beginning(arguments, tmp_path, capsys):
    assert train.main(arguments(tmp_path / "run", "train.max_steps=1", "train.resume=latest")) == 0
    assert "starting at step 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "option, message",
    [
        ("train.dataset.init_args.height=17", "17x16 pixels: height and width must be multiples of 2"),
        ("train.pretrained=missing.safetensors", "no such checkpoint: missing.safetensors"),
        ("train.dataset.init_args.metadata=missing.csv", "missing.csv"),
        ("train.dataset.init_args.frames=100", "every clip is shorter"),
        ("train.resume=missing.safetensors", "no such checkpoint"),
        ("environment.distributed=True", "msrun"),
    ],
)
def test_faults_are_one_message(arguments, tmp_path, option, message):
    with pytest.raises(UserError, match=message):
        train.main(arguments(tmp_path / "run", option))
    assert not (tmp_path / "run").exists()


def test_dry_run_prints_and_writes_nothing(arguments, tmp_path, capsys):
    assert train.main([*arguments(tmp_path / "run"), "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "p_std: 1.6" in printed and "middle_block" in printed and "compiled graphs" in printed
    assert " training " in printed and "GB of memory in training" in printed
    assert "3 clips, 2 steps of 1 clips" in printed
    assert not (tmp_path / "run").exists()


def test_help(capsys):
    with pytest.raises(SystemExit) as left:
        train.main(["--help", "--config=none.yaml"])
    printed = capsys.readouterr().out
    assert not left.value.code and "--train.optimizer.learning_rate  [3e-05]" in printed and "--dry_run" in printed


def test_sample_videos_show_the_weights_of_the_moment(arguments, tmp_path):
    image = tmp_path / "picture.png"
    write_png(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8), image)
    common = (
        f"train.sample.image={image}",
        "train.sample.every=2",
        "train.max_steps=3",
        "train.optimizer.learning_rate=0.1",
    )
    assert train.main(arguments(tmp_path / "run", *common)) == 0
    paths = sorted((tmp_path / "run/samples").iterdir())
    assert [path.name for path in paths] == ["step-00000002.mp4", "step-00000003.mp4"]
    videos = []
    for path in paths:
        with open_video(path) as video:
            videos.append(video.frames(range(2)))
    assert videos[0].shape == (2, 16, 16, 3) and not np.array_equal(*videos)


def test_sampling_changes_nothing_in_the_training(arguments, tmp_path):
    image = tmp_path / "picture.png"
    write_png(np.zeros((20, 20, 3), np.uint8), image)
    train.main(arguments(tmp_path / "plain"))
    train.main(arguments(tmp_path / "sampled", f"train.sample.image={image}", "train.sample.every=1"))
    plain, sampled = (read(tmp_path / run / "weights/delta.safetensors") for run in ("plain", "sampled"))
    assert not changed(plain, sampled)


@pytest.mark.parametrize(
    "option, words",
    [
        ("train.sample.every=2", "give both"),
        ("train.sample.image=no.png", "give both"),
    ],
)
def test_a_sample_needs_a_picture_and_a_time(arguments, tmp_path, option, words):
    with pytest.raises(UserError, match=words):
        train.main(arguments(tmp_path / "run", option))


def test_tensorboard_gets_the_scalars_of_metrics_jsonl(arguments, tmp_path):
    train.main(arguments(tmp_path / "run", "train.log.tensorboard=True", "train.validation.share=0.4"))
    (events,) = (tmp_path / "run/tensorboard").iterdir()
    content = events.read_bytes()
    for name in (b"train/loss", b"train/lr", b"train/loss_by_sigma/", b"validation/loss", b"validation/loss_at/"):
        assert name in content, name
