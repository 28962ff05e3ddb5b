"""The memory that a run will take on each device, estimated before anything is loaded."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Callable

from gm import estimate, memory, ops
from gm.activations import Size
from gm.checkpoint.lora import WEIGHT
from gm.model import COMPONENTS
from gm.ops import parallel
from gm.sizes import size_multiple
from gm.training.lora import lora_layers
from gm.training.plan import Plan
from gm.training.settings import Train, precision
from gm.training.step import is_temporal

_LORA_RANK = 16  # in the remedy


def trainable(shapes: dict[str, tuple[int, ...]], train: Train, rank: int | None = None) -> dict[str, int]:
    """{full name: number of values} of the parameters that would be trained; rank: instead of train.lora's."""
    rank = train.lora.rank if rank is None else rank
    prefix, temporal_only = COMPONENTS["unet"].prefix, train.temporal_only
    if rank:
        layers = lora_layers(shapes, temporal_only, train.lora.targets)
        return {layer: rank * sum(shapes[layer + WEIGHT]) for layer in layers}
    return {
        name: math.prod(shape)
        for name, shape in shapes.items()
        if name.startswith(prefix) and (not temporal_only or is_temporal(name))
    }


def needed(
    plan: Plan,
    batch_size: int | None = None,
    recompute: bool | None = None,
    cache: bool | None = None,
    rank: int | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> dict[str, estimate.Need]:
    """{stage: `gm.estimate.Need`} of a `Plan`, on the device and in the mode of now.

    The other arguments: train.loader.batch_size, train.recompute, whether there is a train.cache, train.lora.rank and
    [(height, width)] in place of the plan's own. Of several sizes the one that needs most counts.
    """
    train, data = plan.train, plan.train.dataset.init_args
    batch = train.loader.batch_size if batch_size is None else batch_size
    cache = train.cache is not None if cache is None else cache
    rank = train.lora.rank if rank is None else rank
    sizes = list(plan.training) if sizes is None else sizes
    height, width = max(sizes, key=math.prod)
    clips = (train.loader.prefetch + 1) * batch + train.loader.workers
    return estimate.training(
        plan.config.model,
        {name: plan.base.held(name, precision(train)) for name in COMPONENTS},
        Size(height, width, data.frames, data.frames * batch),
        ops.memory_setting(),
        sum(trainable(plan.base.shapes, train, rank).values()),
        half=train.amp_level == "O2",
        ema=train.ema,
        recompute=train.recompute if recompute is None else recompute,
        devices=parallel.size() if train.optimizer.shard else 1,
        encoders=not cache,
        clips=clips,
        sample=train.sample.every is not None,
        sizes=len(sizes),
    )


def check(plan: Plan) -> str:
    """A sentence about the memory that the run needs; UserError where it is not there, see `gm.memory.check`.

    Other devices than the CPU have memory of their own, of which nothing is known here.
    """
    if ops.device() != "CPU":
        return "memory is not checked"
    return memory.check(needed(plan), _remedies(plan))


def _remedies(plan: Plan) -> Iterator[tuple[str, Callable[[], dict[str, estimate.Need]]]]:
    """For `gm.memory.check`: what changes the result the least first."""
    train = plan.train
    changes: dict[str, Any] = {}
    steps: list[tuple[str, str, Any, bool]] = [("cache", "--train.cache=FOLDER", True, train.cache is None)]
    steps.append(("recompute", "--train.recompute=True", True, not train.recompute))
    steps.append(("batch_size", "--train.loader.batch_size=1", 1, train.loader.batch_size > 1))
    steps.append(("rank", f"--train.lora.rank={_LORA_RANK}", _LORA_RANK, not train.lora.rank))
    words = []
    for name, word, value, possible in steps:
        if possible:
            yield word, functools.partial(needed, plan, **{name: value})
            changes[name] = value
            words.append(word)
            yield " ".join(words), functools.partial(needed, plan, **changes)
    multiple = size_multiple(plan.config.model)
    for eighths in range(7, 0, -1):
        sizes = [
            tuple(max(multiple, side * eighths // 8 // multiple * multiple) for side in size) for size in plan.training
        ]
        smaller = " ".join([*words, _size_options(train, sizes)])
        yield smaller, functools.partial(needed, plan, **changes, sizes=sizes)


def _size_options(train: Train, sizes: Sequence[Sequence[int]]) -> str:
    option = "--train.dataset.init_args"
    if train.dataset.init_args.sizes is None:
        return " ".join(f"{option}.{name}={side}" for name, side in zip(("height", "width"), sizes[0]))
    return f"{option}.sizes=[{','.join(f'[{height},{width}]' for height, width in sizes)}]"
