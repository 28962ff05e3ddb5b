"""The options of training: types, defaults, limits and meanings, all of them here alone."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from gm.config import load
from gm.errors import UserError
from gm.options import AMP_LEVELS, DEVICES, DTYPES
from gm.settings import Settings, about, count, option, options_of, plain
from gm.sizes import LONGEST_SIDE, size_multiple

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out")  # the linear layers of an attention
# ln sigma, six standard deviations from its mean: float32 holds the squares of e**40 and of e**-40.
_FARTHEST = 40
# The largest sizes below are beyond any model and below what arithmetic and NumPy bear.
# A share or a probability; a number that float32 can divide by.
fraction = functools.partial(option, least=0, most=1)
positive = functools.partial(option, least=1e-30)


@dataclass(frozen=True)
class Environment(Settings):
    device_target: str | None = option("null takes the best that MindSpore finds", None, choices=DEVICES)
    mode: int = option("0 graph mode (compiles first, then fast), 1 PyNative", 0, choices=(0, 1))
    distributed: bool = option("data parallel over the workers that msrun started", False)
    fast_float32: bool = option(
        "let GPUs (TF32) and Ascend (HF32) narrow float32 products: faster, wrong by about 5e-4", False
    )


@dataclass(frozen=True)
class Clips(Settings):
    data_dir: str = option("folder that the paths in the CSV start from")
    metadata: str = option("CSV file with the columns path,length,motion_bucket_id and, if you like, fps, start, crop")
    frames: int = count("frames of a sample", 14, most=1000)
    step: int = count("every step-th frame of the clip", 4, most=10**6)
    height: int = count(
        "pixels; the clip is scaled to cover height x width and cropped at the centre", 576, most=LONGEST_SIDE
    )
    width: int = count("pixels", 1024, most=LONGEST_SIDE)
    sizes: tuple[tuple[int, ...], ...] | None = option(
        "[[576,1024],[1024,576]]: several sizes in place of height and width, each clip the nearest", None
    )
    flip: float = fraction("probability that a sample is mirrored left to right", 0.0)
    verify_files: str = option(
        "exists looks for every file; open also opens and decodes each, which is slow",
        "exists",
        choices=("exists", "open"),
    )

    def contradictions(self) -> Iterable[str]:
        for pair in self.sizes or ():
            if len(pair) != 2 or not all(1 <= side <= LONGEST_SIDE for side in pair):
                yield f"sizes {list(pair)}: each is [height, width], both from 1 to {LONGEST_SIDE}"
        if self.sizes is not None and (not self.sizes or len(set(self.sizes)) < len(self.sizes)):
            yield f"sizes {plain(self.sizes)}: needs one size or more, each once"


@dataclass(frozen=True)
class Dataset(Settings):
    init_args: Clips


@dataclass(frozen=True)
class Loader(Settings):
    batch_size: int = count("clips of a batch on each device", 1, most=10**6)
    workers: int = count("threads that decode", 2, most=1000)
    prefetch: int = count("batches decoded ahead", 2, most=10**6)
    max_failed_share: float = fraction("stop when more than this share of the clips cannot be decoded", 0.1)


@dataclass(frozen=True)
class Loss(Settings):
    p_mean: float = option("ln sigma ~ N(p_mean, p_std): 1.0 is SVD's for 576x1024, 0.7 for 320x576", 1.0)
    p_std: float = option("standard deviation of ln sigma", 1.6, least=0)
    cond_aug_mean: float = option(
        "ln of the noise level on the conditioning picture ~ N(cond_aug_mean, cond_aug_std)", -3.0
    )
    cond_aug_std: float = option("standard deviation of it", 0.5, least=0)
    dropout: float = fraction(
        "probability of each of: no CLIP embedding, no conditioning latent, neither (3 x this in all)", 0.1, most=1 / 3
    )

    def contradictions(self) -> Iterable[str]:
        for name in ("p", "cond_aug"):
            mean, std = getattr(self, f"{name}_mean"), getattr(self, f"{name}_std")
            if not abs(mean) + 6 * std <= _FARTHEST:
                yield (
                    f"{name}_mean {mean} and {name}_std {std}: ln of the noise level must stay within {_FARTHEST} "
                    "of 0, six standard deviations from its mean"
                )


@dataclass(frozen=True)
class Optimizer(Settings):
    learning_rate: float = option("AdamW; 3e-5 is the SVD paper's, for a batch of 768", 3e-5, least=0)
    beta1: float = fraction("of the mean of the gradients", 0.9, most=1 - 1e-9)
    beta2: float = fraction("of the mean of their squares", 0.98, most=1 - 1e-9)
    eps: float = positive("added to the root of the second", 1e-8)
    weight_decay: float = option(
        "of weights with two or more axes; biases, norms and mix factors have none", 0.01, least=0
    )
    clip_norm: float | None = positive("longest gradient, over all weights together; null does not clip", 1.0)
    accumulate: int = count("batches whose gradients are averaged for one step", 1)
    shard: bool = option("several devices: each keeps the moments of its share of the weights alone", False)


@dataclass(frozen=True)
class Lora(Settings):
    rank: int = option(
        "above 0: train a low-rank change of the attention's weights instead of the weights", 0, least=0, most=10**6
    )
    alpha: float | None = positive("the change is multiplied by alpha / rank; null: by 1", None)
    targets: tuple[str, ...] = option(
        "the linear layers that get one; temporal_only says in which attention",
        LORA_TARGETS,
        choices=LORA_TARGETS,
        filled=True,
    )


@dataclass(frozen=True)
class Schedule(Settings):
    name: str = option("constant or cosine, after the warm-up", "constant", choices=("constant", "cosine"))
    warmup_steps: int = option("steps in which the learning rate grows from 0", 0, least=0)
    end_factor: float = fraction("cosine: share of the learning rate at the last step", 0.0)


@dataclass(frozen=True)
class LossScaling(Settings):
    initial: float = option(
        "float16 only: the loss is multiplied by it, halved when a gradient overflows", 65536.0, least=1, most=2**24
    )
    growth_steps: int = count("doubled after that many steps without an overflow", 2000)


@dataclass(frozen=True)
class Checkpoint(Settings):
    every: int = count("steps between checkpoints; there is always one at the end and after Ctrl-C or SIGTERM", 500)
    keep: int = count("how many are kept", 3)


@dataclass(frozen=True)
class Validating(Settings):
    every: int = count("steps between validations", 500)
    share: float = fraction("share of the clips that is held out of training for it", 0.0, most=0.9)
    metadata: str | None = option("or a CSV file of its own", None)
    data_dir: str | None = option("folder of that file's paths; null: the same as for training", None)
    clips: int = count("at most that many clips", 8)
    sigmas: tuple[float, ...] = option(
        "noise levels, the same at every validation, as are clips and noise",
        (0.3, 1.0, 3.0, 10.0, 30.0),
        above=0,
        filled=True,
    )

    def contradictions(self) -> Iterable[str]:
        if self.share and self.metadata:
            yield "share and metadata both say which clips are held out; give one of them"


@dataclass(frozen=True)
class Sample(Settings):
    every: int | None = count("steps between sample videos in <output_dir>/samples; null makes none", None)
    image: str | None = option("the picture that they start from", None)
    seed: int = option("of their noise, the same each time", 23, least=0)

    def contradictions(self) -> Iterable[str]:
        if (self.every is None) != (self.image is None):
            yield "every (steps) and image (the picture): give both, or neither"


@dataclass(frozen=True)
class Logging(Settings):
    every: int = count("steps between lines of metrics.jsonl; every checkpoint has one too", 1)
    tensorboard: bool = option("write TensorBoard files too (needs tensorboardX)", False)


@dataclass(frozen=True)
class Train(Settings):
    """The section train, which is most of what a run is told."""

    dataset: Dataset
    output_dir: str = option("the run's folder: settings, metrics, checkpoints, weights", "outputs/train")
    pretrained: str | None = option("the checkpoint to start from; null starts from random values (small models)", None)
    base: str | None = option(
        "a whole model that completes pretrained where that is a part of one, such as a UNet alone", None
    )
    use_ema: bool = option("start from the running mean that lies beside the weights in pretrained", False)
    resume: str | None = option("latest, or the path of a checkpoint of this run: go on from there", None)
    temporal_only: bool = option(
        "train the UNet's time_stack, time_pos_embed and time_mixer alone; false: the whole UNet", True
    )
    epochs: float = option("how often every clip is shown", 1.0, least=0)
    max_steps: int | None = count("stop after that many steps, whatever epochs says", None)
    seed: int = option("of every random number: order, frames, noise, initial values", 42, least=0)
    cache: str | None = option(
        "folder where every clip is kept encoded: the encoders run once, and are not held in memory", None
    )
    cache_epochs: int = count(
        "cache: how many samples (start, mirroring, noise on the picture) are kept of each clip", 1, most=999
    )
    amp_level: str = option(
        "O0 float32; O2 float16 UNet and CLIP with float32 weights in the optimizer", "O0", choices=AMP_LEVELS
    )
    dtype: str | None = option(
        "of O2: null is float16; bfloat16 (Ascend 910B and later) needs no loss scale", None, choices=DTYPES
    )
    recompute: bool = option(
        "compute the UNet's blocks again in the backward pass: less memory, about a third slower", False
    )
    ema: bool = option("keep a running mean of the weights too, decay min(0.9999, (1 + n) / (10 + n))", False)
    save: str = option(
        "weights written with every checkpoint: delta the trained ones alone, full all (9 GB for SVD)",
        "delta",
        choices=("delta", "full"),
    )
    loader: Loader = Loader()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    lora: Lora = Lora()
    schedule: Schedule = Schedule()
    loss_scale: LossScaling = LossScaling()
    checkpoint: Checkpoint = Checkpoint()
    validation: Validating = Validating()
    sample: Sample = Sample()
    log: Logging = Logging()

    def contradictions(self) -> Iterable[str]:
        if self.pretrained is None and self.temporal_only:
            yield (
                "temporal_only without train.pretrained: the frozen layers would be untrained, the last one zero, "
                "and nothing would be learnt; name a checkpoint or set --train.temporal_only=False"
            )
        if self.pretrained is None and self.save == "delta":
            yield (
                "save=delta without train.pretrained: there is no model that the trained part could be put on; set "
                "--train.save=full"
            )


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """All that train.py is told, but for the model."""

    environment: Environment
    train: Train


def load_settings(path: str | Path, overrides: Sequence[str] = ()) -> TrainingSettings:
    """The settings of a run from a YAML file and `key.sub=value` overrides, over the defaults of the fields here.

    Raises:
        UserError: with every fault: unknown keys, wrong types, values outside their limits, contradictions.
    """
    return load(TrainingSettings, path, overrides)


def precision(train: Train) -> str:
    """amp_level and dtype of the section train as one value, see `gm.precision.level`."""
    from gm.precision import level  # imports MindSpore, which reading settings needs none of

    return level(train.amp_level, train.dtype)


def sizes(data: Clips) -> list[tuple[int, int]]:
    """[(height, width)] of the samples, in pixels, that the section train.dataset.init_args asks for."""
    return [(height, width) for height, width in data.sizes or ((data.height, data.width),)]


def size_name(size: Sequence[int]) -> str:
    """(height, width) as people and folders call it."""
    return "{}x{}".format(*size)


def check_size(settings: TrainingSettings, model: Any) -> None:
    """UserError where a size of the samples does not fit the model."""
    multiple = size_multiple(model)
    for size in sizes(settings.train.dataset.init_args):
        if size[0] % multiple or size[1] % multiple:
            raise UserError(
                f"train.dataset.init_args: {size_name(size)} pixels: height and width must be multiples of {multiple} "
                "for this model"
            )


def describe_options() -> list[str]:
    """All options as the lines of a help text: name, default and meaning."""
    lines = []
    for path, field in options_of(TrainingSettings):
        default = "required" if field.default is MISSING else field.default
        shown = default if isinstance(default, str) else json.dumps(default)
        lines.append(f"  --{path}  [{shown}]\n        {about(field).help}")
    return lines
