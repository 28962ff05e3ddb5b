"""The options of training: their types and limits. Defaults and meanings are in configs/svd_train.yaml alone."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gm.config import Section, check, load_config
from gm.errors import UserError
from gm.precision import AMP_LEVELS, DTYPES, level
from gm.sizes import size_multiple


@dataclass
class Environment:
    device_target: Literal["CPU", "GPU", "Ascend"] | None
    mode: Literal[0, 1]
    distributed: bool
    fast_float32: bool


@dataclass
class Dataset:
    data_dir: str
    metadata: str
    frames: int
    step: int
    height: int
    width: int
    sizes: list[list[int]] | None
    flip: float
    verify_files: Literal["exists", "open"]


@dataclass
class Loader:
    batch_size: int
    workers: int
    prefetch: int
    max_failed_share: float


@dataclass
class Loss:
    p_mean: float
    p_std: float
    cond_aug_mean: float
    cond_aug_std: float
    dropout: float


@dataclass
class Optimizer:
    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip_norm: float | None
    accumulate: int
    shard: bool


@dataclass
class Lora:
    rank: int
    alpha: float | None
    targets: list[str]


@dataclass
class Schedule:
    name: Literal["constant", "cosine"]
    warmup_steps: int
    end_factor: float


@dataclass
class LossScale:
    initial: float
    growth_steps: int


@dataclass
class Checkpoint:
    every: int
    keep: int


@dataclass
class Validation:
    every: int
    share: float
    metadata: str | None
    data_dir: str | None
    clips: int
    sigmas: list[float]


@dataclass
class Sample:
    every: int | None
    image: str | None
    seed: int


@dataclass
class Log:
    every: int
    tensorboard: bool


SCHEMA = {
    "environment": Section(Environment),
    "train": {
        "output_dir": "str", "pretrained": "Optional[str]", "base": "Optional[str]", "use_ema": "bool",
        "resume": "Optional[str]", "temporal_only": "bool",
        "epochs": "float", "max_steps": "Optional[int]", "seed": "int", "cache": "Optional[str]", "cache_epochs": "int",
        "amp_level": f"Literal[{', '.join(map(repr, AMP_LEVELS))}]",
        "dtype": f"Optional[Literal[{', '.join(map(repr, DTYPES))}]]", "recompute": "bool", "ema": "bool",
        "save": "Literal['delta', 'full']",
        "dataset": {"init_args": Section(Dataset)},
        "loader": Section(Loader), "loss": Section(Loss), "optimizer": Section(Optimizer), "lora": Section(Lora),
        "schedule": Section(Schedule), "loss_scale": Section(LossScale), "checkpoint": Section(Checkpoint),
        "validation": Section(Validation), "sample": Section(Sample), "log": Section(Log),
    },
}

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out")  # the linear layers of an attention

_INFINITE = math.inf
# ln sigma, six standard deviations from its mean: float32 holds the squares of e**40 and of e**-40.
_FARTHEST = 40
_LONGEST_SIDE = 16384  # pixels
# (option below train, smallest value, largest value), both inclusive. The largest sizes are beyond any model and below
# what arithmetic and NumPy bear.
_LIMITS = (
    ("epochs", 0, _INFINITE), ("max_steps", 1, _INFINITE), ("seed", 0, 2**63 - 1), ("cache_epochs", 1, 999),
    ("dataset.init_args.frames", 1, 1000), ("dataset.init_args.step", 1, 10**6),
    ("dataset.init_args.height", 1, _LONGEST_SIDE), ("dataset.init_args.width", 1, _LONGEST_SIDE),
    ("dataset.init_args.flip", 0, 1),
    ("loader.batch_size", 1, 10**6), ("loader.workers", 1, 1000), ("loader.prefetch", 1, 10**6),
    ("loader.max_failed_share", 0, 1),
    ("loss.p_std", 0, _INFINITE), ("loss.cond_aug_std", 0, _INFINITE), ("loss.dropout", 0, 1 / 3),
    ("optimizer.learning_rate", 0, _INFINITE), ("optimizer.beta1", 0, 1 - 1e-9), ("optimizer.beta2", 0, 1 - 1e-9),
    ("optimizer.eps", 1e-30, _INFINITE), ("optimizer.weight_decay", 0, _INFINITE),
    ("optimizer.clip_norm", 1e-30, _INFINITE), ("optimizer.accumulate", 1, _INFINITE),
    ("lora.rank", 0, 10**6), ("lora.alpha", 1e-30, _INFINITE),
    ("schedule.warmup_steps", 0, _INFINITE), ("schedule.end_factor", 0, 1),
    ("loss_scale.initial", 1, 2.0**24), ("loss_scale.growth_steps", 1, _INFINITE),
    ("checkpoint.every", 1, _INFINITE), ("checkpoint.keep", 1, _INFINITE),
    ("validation.every", 1, _INFINITE), ("validation.share", 0, 0.9), ("validation.clips", 1, _INFINITE),
    ("sample.every", 1, _INFINITE), ("sample.seed", 0, 2**63 - 1), ("log.every", 1, _INFINITE),
)


def load_settings(path, overrides=()):
    """The settings of a run from a YAML file and `key.sub=value` overrides.

    Raises:
        UserError: with every fault: unknown keys, wrong types, values outside their limits, contradictions.
    """
    settings = load_config(path, overrides)
    check(settings, SCHEMA, path)
    faults = _limit_faults(settings.train) + _contradictions(settings.train)
    if faults:
        raise UserError("\n  ".join(["invalid settings:", *faults]))
    return settings


def _limit_faults(train):
    faults = []
    for option, least, most in _LIMITS:
        value = train
        for name in option.split("."):
            value = value[name]
        if value is not None and not (least <= value <= most and math.isfinite(value)):
            most = "" if most == _INFINITE else f" and at most {most:g}"
            faults.append(f"train.{option} {value}: must be at least {least:g}{most}")
    for name in ("p", "cond_aug"):
        mean, std = train.loss[f"{name}_mean"], train.loss[f"{name}_std"]
        if not abs(mean) + 6 * std <= _FARTHEST:
            faults.append(f"train.loss.{name}_mean {mean} and {name}_std {std}: ln of the noise level must stay within "
                          f"{_FARTHEST} of 0, six standard deviations from its mean")
    for pair in train.dataset.init_args.sizes or ():
        if len(pair) != 2 or not all(1 <= side <= _LONGEST_SIDE for side in pair):
            faults.append(f"train.dataset.init_args.sizes {list(pair)}: each is [height, width], both from 1 to "
                          f"{_LONGEST_SIDE}")
    sigmas = list(train.validation.sigmas)
    if not sigmas or any(not 0 < sigma < _INFINITE for sigma in sigmas):
        faults.append(f"train.validation.sigmas {sigmas}: needs one noise level or more, each above 0")
    return faults


def _contradictions(train):
    faults = []
    if train.pretrained is None and train.temporal_only:
        faults.append(
            "train.temporal_only without train.pretrained: the frozen layers would be untrained, the last one zero, "
            "and nothing would be learnt; name a checkpoint or set --train.temporal_only=False"
        )
    if train.pretrained is None and train.save == "delta":
        faults.append(
            "train.save=delta without train.pretrained: there is no model that the trained part could be put on; set "
            "--train.save=full"
        )
    given = train.dataset.init_args.sizes
    if given is not None and (not given or len(set(map(tuple, given))) < len(given)):
        faults.append(f"train.dataset.init_args.sizes {list(map(list, given))}: needs one size or more, each once")
    wrong = [target for target in train.lora.targets if target not in LORA_TARGETS]
    if wrong or not train.lora.targets:
        faults.append(f"train.lora.targets {list(train.lora.targets)}: choose from {', '.join(LORA_TARGETS)}")
    if (train.sample.every is None) != (train.sample.image is None):
        faults.append("train.sample: needs both, every (steps) and image (the picture), or neither")
    if train.validation.share and train.validation.metadata:
        faults.append("train.validation: share and metadata both say which clips are held out; give one of them")
    return faults


def precision(train):
    """amp_level and dtype of the section train as one value, see `gm.precision.level`."""
    return level(train.amp_level, train.dtype)


def sizes(data):
    """[(height, width)] of the samples, in pixels, that the section train.dataset.init_args asks for."""
    return [(data.height, data.width)] if data.sizes is None else [tuple(size) for size in data.sizes]


def size_name(size):
    """(height, width) as people and folders call it."""
    return "{}x{}".format(*size)


def check_size(settings, model):
    """UserError where a size of the samples does not fit the model."""
    multiple = size_multiple(model)
    for size in sizes(settings.train.dataset.init_args):
        if size[0] % multiple or size[1] % multiple:
            raise UserError(
                f"train.dataset.init_args: {size_name(size)} pixels: height and width must be multiples of {multiple} "
                "for this model"
            )


def describe_options(path):
    """The options in a YAML file as the lines of a help text: name, default and the comment behind it."""
    lines, parents = [], []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        found = re.match(r"( *)(\w+):\s*(.*?)\s*(?:#\s*(.*))?$", line)
        if not found:
            continue
        indent, name, default, meaning = found.groups()
        parents = parents[: len(indent) // 2] + [name]
        if default:
            shown = "required" if default == "???" else default
            lines.append(f"  --{'.'.join(parents)}  [{shown}]\n        {meaning or ''}")
    return lines
