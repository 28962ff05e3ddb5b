"""train.py on clips of several sizes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from omegaconf import OmegaConf

import train
from gm.checkpoint.formats import open_checkpoint
from gm.data.sized_clips import SizedClips
from gm.errors import UserError
from gm.training.state import checkpoints


def read(path):
    with open_checkpoint(path) as file:
        return {name: np.array(file.read(name)) for name in file.names()}


def same(one, other):
    return one.keys() == other.keys() != set() and all(np.array_equal(one[name], other[name]) for name in one)


def losses(metrics):
    return [(line["kind"], line["loss"]) for line in metrics]


def test_clips_of_one_size_train_as_with_that_size_alone(arguments, tmp_path, read_metrics, capsys):
    common = [
        "train.validation.share=0.34",
        "train.validation.clips=1",
        "train.dataset.init_args.flip=0.5",
        "train.max_steps=3",
    ]
    train.main(arguments(tmp_path / "alone", *common))
    several = ("train.dataset.init_args.sizes=[[8,24],[16,16]]", "train.dataset.init_args.height=64")
    train.main(arguments(tmp_path / "sizes", *common, *several))
    assert "no training clip is nearest to 8x24" in capsys.readouterr().err
    assert losses(read_metrics(tmp_path / "alone")) == losses(read_metrics(tmp_path / "sizes"))
    assert same(*(read(tmp_path / run / "weights/delta.safetensors") for run in ("alone", "sizes")))


COMMON = ["train.loader.batch_size=2", "train.max_steps=4", "train.validation.share=0.4"]


def test_resuming_ends_with_the_same_bits_and_every_size_is_validated(
    arguments, several_sizes, tmp_path, read_metrics, capsys
):
    shown = SizedClips({(16, 16): range(2), (8, 24): range(1)}, 2, 42)
    early, late = ({shown.place(position)[0] for position in range(*half)} for half in ((0, 4), (4, 8)))
    assert early == late == {0, 1}, "both sizes come before and after the interruption"
    argv = arguments(tmp_path, *several_sizes, *COMMON, "train.checkpoint.every=2", "train.checkpoint.keep=9")
    assert train.main(argv) == 0
    printed = capsys.readouterr().out
    assert "16x16: 2 clips" in printed and "8x24: 1 clip" in printed and "compiled once for each" in printed
    weights, lines = read(tmp_path / "weights/delta.safetensors"), read_metrics(tmp_path)
    assert {tuple(line["loss_of_size"]) for line in lines if line["kind"] == "validation"} == {("16x16", "8x24")}
    assert OmegaConf.load(tmp_path / "settings.yaml").train.dataset.init_args.sizes == [[16, 16], [8, 24]]

    for path in checkpoints(tmp_path / "checkpoints")[1:]:
        path.unlink()  # as if it had been killed after step 2
    assert train.main([*argv, "--train.resume=latest"]) == 0
    assert same(weights, read(tmp_path / "weights/delta.safetensors"))
    assert losses(read_metrics(tmp_path)) == losses(lines)
    with pytest.raises(UserError, match="clips of a batch, over all devices was 2 and is 1 now"):
        train.main([*argv, "--train.resume=latest", "--train.loader.batch_size=1", "--train.max_steps=20"])


@pytest.mark.slow
def test_the_losses_are_those_without_a_cache(arguments, several_sizes, tmp_path, read_metrics):
    cache = [f"train.cache={tmp_path / 'cache'}", "train.cache_epochs=4"]
    for run, more in (("live", []), ("cached", cache)):
        assert train.main(arguments(tmp_path / run, *several_sizes, *COMMON, *more)) == 0
    assert losses(read_metrics(tmp_path / "live")) == losses(read_metrics(tmp_path / "cached"))
    assert same(*(read(tmp_path / run / "weights/delta.safetensors") for run in ("live", "cached")))
    record = json.loads((tmp_path / "cache/training/8x24/cache.json").read_text())
    assert (record["height"], record["width"], record["number of clips"]) == (8, 24, 1)
    assert len(list((tmp_path / "cache/training/16x16").glob("clip-*"))) == 2 * 4


def test_a_size_that_the_model_cannot_do_is_refused(arguments, tmp_path):
    with pytest.raises(UserError, match="16x9 pixels: height and width must be multiples of 2"):
        train.main(arguments(tmp_path, "train.dataset.init_args.sizes=[[16,16],[16,9]]"))
