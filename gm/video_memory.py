"""The memory that a video will take, estimated before anything is loaded, and what would take less."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gm import estimate, ops
from gm.activations import FLOAT
from gm.ops import reference
from gm.parts import PARTS
from gm.sizes import size_multiple

if TYPE_CHECKING:
    from gm.options import Options
    from gm.pipeline import ImageToVideo


def needed(
    pipeline: ImageToVideo, size: tuple[int, int], options: Options, low_memory: bool | None = None, **kinds: Any
) -> dict[str, estimate.Need]:
    """{stage: `gm.estimate.Need`} of a video by a `gm.pipeline.ImageToVideo`, on the device and in the mode of now.

    Args:
        size: (height, width) in pixels. options: `gm.options.Options`. low_memory: in place of the pipeline's own.
        kinds: see `gm.estimate.Basis.stages`.
    """
    return basis(pipeline, low_memory).stages(size, options, **kinds)


def basis(pipeline: ImageToVideo, low_memory: bool | None = None) -> estimate.Basis:
    """What of a pipeline decides memory: `gm.estimate.Basis`. low_memory: in place of the pipeline's own."""
    low_memory = pipeline.low_memory if low_memory is None else low_memory
    weights = {name: pipeline.weights.held(name, pipeline.amp_level, low_memory) for name in PARTS.values()}
    changed = sum(math.prod(pipeline.weights.shapes[name]) for name in pipeline.deltas.names())
    weights["unet"] = weights["unet"]._replace(own=weights["unet"].own + FLOAT * changed)
    return estimate.Basis(pipeline.config.model, weights, ops.memory_setting(), low_memory, reference.MAX_SCORES)


def remedies(
    pipeline: ImageToVideo,
    size: tuple[int, int],
    options: Options,
    stages: Callable[..., dict[str, estimate.Need]],
    batch: int = 1,
) -> Iterator[tuple[str, Callable[[], dict[str, estimate.Need]]]]:
    """Pairs for `gm.memory.check`: what a user can change, what costs the least first.

    stages: function of size and changes, by the options' names, low_memory and batch, that gives the stages. batch: of
    videos that are sampled at once.
    """
    low, chunk = {} if pipeline.low_memory else {"low_memory": True}, min(options.decode_chunk_size, options.num_frames)
    chunks = [{"decode_chunk_size": chunk >> k} for k in range(1, chunk.bit_length())]
    one = {"batch": 1} if batch > 1 else {}
    tries = [{"batch": fewer} for fewer in range(batch - 1, 0, -1)] + chunks
    tries += [{**one, **fewer} for fewer in chunks] if one else []
    tries += [{**one, **low}, *({**one, **low, **fewer} for fewer in chunks)] if low else []
    least = {**one, **low, "decode_chunk_size": 1}
    for changes in (*tries, {**least, "decode_tile": 256}):
        yield _words(changes), functools.partial(stages, size, **changes)
    multiple = size_multiple(pipeline.config.model)
    for eighths in range(7, 0, -1):
        smaller = tuple(max(multiple, side * eighths // 8 // multiple * multiple) for side in size)
        if smaller != tuple(size):
            words = f"--height={smaller[0]} --width={smaller[1]} {_words(least)}"
            yield words, functools.partial(stages, smaller, **least)


def _words(changes: dict[str, Any]) -> str:
    named = {"low_memory": lambda _: "--low_memory", "batch": lambda value: f"--batch={value}"}
    return " ".join(
        named.get(name, lambda value, name=name: f"--SVD.{name}={value}")(value) for name, value in changes.items()
    )
