"""Options: one list, checked before anything is built."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import train
from gm.errors import UserError
from gm.settings import plain
from gm.training.settings import describe_options, load_settings

PATH = Path(__file__).resolve().parents[2] / "configs" / "svd_train.yaml"
DATA = ["train.dataset.init_args.data_dir=d", "train.dataset.init_args.metadata=m.csv"]
BASE = [*DATA, "train.pretrained=x"]


def test_defaults_are_those_that_the_paper_and_the_readme_name():
    train_section = load_settings(PATH, BASE).train
    loss = train_section.loss
    assert (loss.p_mean, loss.p_std, loss.cond_aug_mean, loss.cond_aug_std, loss.dropout) == (1.0, 1.6, -3.0, 0.5, 0.1)
    optimizer = train_section.optimizer
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.weight_decay) == (0.9, 0.98, 1e-8, 0.01)
    assert train_section.temporal_only is True


@pytest.mark.parametrize(
    "override, message",
    [
        ("train.epoch=3", "did you mean 'epochs'"),
        ("train.dataset.init_args.frame=3", "did you mean 'frames'"),
        ("train.epochs=many", "train.epochs: expected float"),
        ("train.save=both", "train.save"),
        ("environment.mode=2", "environment.mode"),
        ("train.loss.dropout=0.4", "train.loss.dropout 0.4: must be 0.333333 or less"),
        ("train.optimizer.accumulate=0", "train.optimizer.accumulate 0: must be at least 1"),
        ("train.optimizer.learning_rate=.nan", "train.optimizer.learning_rate nan: must be a finite number"),
        ("train.loss.p_mean=.inf", "train.loss.p_mean inf: must be a finite number"),
        ("train.schedule.name=linear", "train.schedule.name 'linear': must be one of constant, cosine"),
        ("environment.device_target=TPU", "environment.device_target 'TPU': must be one of CPU, GPU, Ascend"),
        ("train.log=3", "train.log: is a section, cannot become a single value"),
        ("train.loss.p_mean=1e9", "train.loss.p_mean 1000000000.0 and p_std 1.6: ln of the noise level"),
        ("train.loss.p_std=7", "train.loss.p_mean 1.0 and p_std 7"),
        ("train.loss.cond_aug_mean=-60", "train.loss.cond_aug_mean -60"),
        ("train.validation.sigmas=[]", "must not be empty"),
        ("train.validation.sigmas=[1,0]", "each must be more than 0"),
        ("train.dataset.init_args.frames=-1", "frames -1: must be at least 1"),
        ("train.dataset.init_args.sizes=[64,64]", "init_args.sizes: expected list[list[int]] | None"),
        ("train.dataset.init_args.sizes=[[64,0]]", "init_args.sizes [64, 0]: each is [height, width], both from 1"),
        ("train.dataset.init_args.sizes=[[64]]", "init_args.sizes [64]: each is [height, width]"),
        ("train.dataset.init_args.sizes=[]", "init_args.sizes []: needs one size or more"),
        ("train.dataset.init_args.sizes=[[64,64],[64,64]]", "needs one size or more, each once"),
    ],
)
def test_a_wrong_option_is_named(override, message):
    with pytest.raises(UserError, match=re.escape(message)):
        load_settings(PATH, [*BASE, override])


def test_all_faults_are_told_at_once():
    with pytest.raises(UserError) as caught:
        load_settings(PATH, [*DATA, "train.optimizer.eps=0", "train.loader.workers=0"])
    message = str(caught.value)
    for word in ("train.optimizer.eps", "train.loader.workers", "temporal_only", "save=delta"):
        assert word in message


# Below train; of whole numbers the largest that may be written is 2**63 - 1.
TOO_SMALL = """epochs=-1 max_steps=0 seed=-1 cache_epochs=0 dataset.init_args.frames=0 dataset.init_args.step=0
    dataset.init_args.height=0 dataset.init_args.width=0 dataset.init_args.flip=-0.1 loader.batch_size=0
    loader.workers=0 loader.prefetch=0 loader.max_failed_share=-0.1 loss.p_std=-1 loss.cond_aug_std=-1 loss.dropout=-0.1
    optimizer.learning_rate=-1e-9 optimizer.beta1=-0.1 optimizer.beta2=-0.1 optimizer.eps=0 optimizer.weight_decay=-0.1
    optimizer.clip_norm=0 optimizer.accumulate=0 lora.rank=-1 lora.alpha=0 schedule.warmup_steps=-1
    schedule.end_factor=-0.1 loss_scale.initial=0.5 loss_scale.growth_steps=0 checkpoint.every=0 checkpoint.keep=0
    validation.every=0 validation.share=-0.1 validation.clips=0 sample.every=0 sample.seed=-1 log.every=0"""
TOO_LARGE = """epochs=.inf cache_epochs=1000 dataset.init_args.frames=1001 dataset.init_args.step=1000001
    dataset.init_args.height=16385 dataset.init_args.width=16385 dataset.init_args.flip=1.1 loader.batch_size=1000001
    loader.workers=1001 loader.prefetch=1000001 loader.max_failed_share=1.1 loss.dropout=0.334 optimizer.beta1=1
    optimizer.beta2=1 lora.rank=1000001 schedule.end_factor=1.1 loss_scale.initial=16777217 validation.share=0.91"""


@pytest.mark.parametrize("beyond", [TOO_SMALL, TOO_LARGE])
def test_every_limit_is_told(beyond):
    with pytest.raises(UserError) as caught:
        load_settings(PATH, [*BASE, "train.sample.image=x", *(f"train.{item}" for item in beyond.split())])
    told = {line.split()[0] for line in str(caught.value).splitlines()[1:] if "must be" in line}
    assert told == {f"train.{item.partition('=')[0]}" for item in beyond.split()}


def test_data_must_be_named():
    with pytest.raises(UserError, match="train.dataset.init_args.data_dir"):
        load_settings(PATH, [])


def leaves(section, path=""):
    for name, value in section.items():
        full = f"{path}.{name}" if path else name
        yield from leaves(value, full) if isinstance(value, dict) else [full]


def test_help_lists_every_option_with_its_default_and_meaning():
    shown, lines = {}, describe_options()
    for line in lines:
        head, meaning = line.split("\n")
        name, default = re.fullmatch(r"  --(\S+)  \[(.*)\]", head).groups()
        assert meaning.strip(), f"{name} has no meaning"
        shown[name] = default
    settings = plain(load_settings(PATH, BASE))
    assert list(shown) == list(leaves(settings)) and len(shown) > 50
    assert shown["train.optimizer.beta2"] == "0.98" and shown["train.dataset.init_args.metadata"] == "required"
    assert shown["train.sample.every"] == "null" and shown["train.lora.targets"] == '["to_q", "to_k", "to_v", "to_out"]'


def test_help_and_reading_need_no_mindspore():
    code = "import sys, train; train.parse(['--help'])"
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            f"""
import atexit, sys
atexit.register(lambda: print('mindspore' in sys.modules))
{code}""",
        ],
        cwd=PATH.parent.parent,
        capture_output=True,
        text=True,
    )
    assert "--train.optimizer.learning_rate  [3e-05]" in found.stdout and found.stdout.endswith("False\n"), found.stderr


def test_the_command_line_takes_both_spellings():
    arguments, overrides = train.parse(["--config=c.yaml", "--train.epochs", "3", "--train.seed=1", "--dry_run"])
    assert arguments.config == "c.yaml" and arguments.dry_run
    assert overrides == ["train.epochs=3", "train.seed=1"]


@pytest.mark.parametrize("argv", [["--train.epochs"], ["--train.epochs", "--train.seed=1"], ["epochs=3"], ["--config"]])
def test_a_malformed_command_line_is_one_error(argv):
    with pytest.raises(UserError, match="--help"):
        train.parse(argv)


def test_a_name_that_settings_cannot_hold_is_told_before_there_is_a_run():
    folder = os.fsdecode(b"f\xfcr")
    with pytest.raises(UserError, match="train.output_dir=f.*r': a name that is not UTF-8"):
        train.parse(["--train.epochs=3", f"--train.output_dir={folder}"])
