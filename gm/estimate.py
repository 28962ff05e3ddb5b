"""How much memory a video or a training run will take, from shapes alone and before anything large is allocated.

`generation` and `training` give {stage: `Need`}: what the process holds at most in each of its stages. `gm.memory`
shows them and compares them with what is left. No mindspore here.

Shapes decide most of it: weights, gradients, moments, pixels, activations (`gm.activations`). What the framework adds
is measured, on a CPU with MindSpore 2.8.0 (`benchmarks/memory.py` prints prediction and measurement side by side): the
compiler's memory for each block of a network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from gm import activations
from gm.activations import FLOAT, Setting, Size, unet_blocks

if TYPE_CHECKING:
    from gm.model_config import Networks, Vae
    from gm.options import Options

# Bytes of the process when MindSpore is imported: of its own, and pages of libraries.
_PROGRAM, _LIBRARIES = 0.16e9, 0.25e9
_FIRST_CALL, _FIRST_STEP = 0.05e9, 0.03e9  # what is set up, buffers of threads, by the first network and by the UNet
# Graph mode's front end, bytes for each block: a ResBlock or a transformer of the UNet, over space and time, and a
# block of the other networks. It keeps them. Training's graphs have a backward half too.
_COMPILED, _COMPILED_SMALL = 22.5e6, 4.5e6
_COMPILED_TRAINING, _COMPILED_RECOMPUTED = 35e6, 72e6
_FRAME = 30  # bytes for a pixel of a decoded frame: float32 twice, and bytes
_KEPT_FRAME = 6  # of a longer video's frame: bytes, twice while they are joined and written


class Held(NamedTuple):
    """Weights: bytes of memory of their own, and pages of the mapped file, which the system can take back."""

    own: float = 0
    mapped: float = 0


class Need(NamedTuple):
    """The most that a process holds in a stage: {what: bytes} of its own, and pages of files, which the system can take
    back, but which the stage reads all the time."""

    parts: dict[str, float]
    mapped: float

    @property
    def own(self) -> float:
        return sum(self.parts.values())

    @property
    def total(self) -> float:
        """What is measured as the resident memory, in bytes."""
        return self.own + self.mapped


def held(values: Iterable[tuple[int, int, int]]) -> Held:
    """`Held` of weights: (number of values, bytes of each in the file, bytes of each in the network) of each."""
    own = mapped = 0
    for count, stored, wanted in values:
        if stored == wanted:
            mapped += count * wanted
        else:
            own += count * wanted
    return Held(own, mapped)


def _vae_blocks(vae: Vae, per_level: int) -> int:
    return len(vae.ch_mult) * per_level + 3


def generation(
    model: Networks,
    weights: Mapping[str, Held],
    size: Size,
    chunk: int,
    setting: Setting,
    low_memory: bool = False,
    tiles: tuple[int | None, int | None] = (None, None),
    decoded: bool = True,
    scores: int = 2**26,
    sampled: bool = True,
    kept: int = 0,
    caches: int = 0,
) -> dict[str, Need]:
    """{"conditioning", "sampling", "decoding": `Need`} of making one video.

    The UNet's weights may come while the picture is still encoded; they count as sampling's, which holds all of it.

    Args:
        model: the section model of a config. weights: {component of `gm.model.COMPONENTS`: `Held`}.
        size: `Size`. chunk: frames decoded at a time. setting: `Setting`.
        low_memory: every component goes when it has done its part.
        tiles: (encode_tile, decode_tile) in pixels, None for whole. decoded: False where latents are the result.
        scores: the most that attention holds at once, see `gm.memory.attention_scores`.
        sampled: False where latents are given, which are decoded alone. kept: frames of a longer video's segments.
        caches: of `gm.diffusion.deepcache`.
    """
    parts: dict[str, float] = {
        "program": _PROGRAM + _FIRST_CALL,
        "compiled graphs": 0,
        "encoders": 0,
        "UNet": 0,
        "decoder": 0,
    }
    mapped: dict[str, float] = {"program": _LIBRARIES}
    stages: dict[str, Need] = {}
    active = 0.0
    if sampled:
        found = caches * activations.deep_kept(model, size)
        stages, active = _sampling(model, weights, size, setting, low_memory, tiles[0], scores, found, parts, mapped)
    if not decoded:
        return stages
    blocks = _vae_blocks(model.vae, model.vae.num_res_blocks + 1)
    parts["compiled graphs"] += setting.compiled(2 * _COMPILED_SMALL * blocks)  # over space and time
    if low_memory:
        parts["UNet"] = 0
    parts["decoder"], mapped["decoder"] = weights["decoder"]
    # What was freed is not given back to the system, and little of it serves again.
    active += activations.decoder(model, size, setting, chunk, tiles[1])
    active += (_FRAME * size.frames + _KEPT_FRAME * kept) * size.height * size.width
    stages["decoding"] = _need(parts, active, mapped)
    return stages


def _sampling(
    model: Networks,
    weights: Mapping[str, Held],
    size: Size,
    setting: Setting,
    low_memory: bool,
    encode_tile: int | None,
    scores: int,
    cached: float,
    parts: dict[str, float],
    mapped: dict[str, float],
) -> tuple[dict[str, Need], float]:
    """The stages before decoding, and bytes of their activations, of which `cached` from step to step; adds to `parts`
    and `mapped` what they leave."""
    small = model.clip.layers + _vae_blocks(model.vae, model.vae.num_res_blocks)
    parts["compiled graphs"] += setting.compiled(_COMPILED_SMALL * small)
    active = activations.encoder(model, size, setting, encode_tile)
    mapped.update({name: weights[name].mapped for name in ("clip", "condition_encoder")})
    parts["encoders"] = weights["clip"].own + weights["condition_encoder"].own
    stages = {"conditioning": _need(parts, active, mapped)}

    parts["compiled graphs"] += setting.compiled(_COMPILED * len(unet_blocks(model.unet))) + _FIRST_STEP
    if low_memory:  # pages of the file stay until the system wants them back
        parts["encoders"] = 0
    parts["UNet"], mapped["unet"] = weights["unet"]
    active += activations.unet_widest(model, size, setting) + activations.scores(model, size, setting, scores)
    active += cached
    stages["sampling"] = _need(parts, active, mapped)
    return stages, active


def _need(parts: Mapping[str, float], activations: float, mapped: Mapping[str, float]) -> Need:
    kept = {name: value for name, value in {**parts, "activations": activations}.items() if value}
    return Need(kept, sum(mapped.values()))


class Basis(NamedTuple):
    """What of a loaded model decides the memory of its videos; it can go to another process.

    Fields as the arguments of `generation`.
    """

    model: Networks
    weights: Mapping[str, Held]
    setting: Setting
    low_memory: bool
    scores: int

    def stages(
        self,
        size: tuple[int, int],
        options: Options,
        decoded: bool = True,
        sampled: bool = True,
        kept: int = 0,
        batch: int = 1,
        devices: int = 1,
        ends: bool = False,
    ) -> dict[str, Need]:
        """`generation` for videos of (height, width) pixels with `gm.options.Options`, `batch` of them at once, perhaps
        one half of guidance on each of two devices, or denoised from either end."""
        halves = 2 if options.guided() and not self.low_memory and devices == 1 else 1
        frames = Size(*size, options.num_frames, options.num_frames * halves * batch)
        return generation(
            self.model,
            self.weights,
            frames,
            options.decode_chunk_size,
            self.setting,
            self.low_memory,
            (options.encode_tile, options.decode_tile),
            decoded,
            self.scores,
            sampled,
            kept,
            (2 if ends else 1) if options.cache_interval > 1 else 0,
        )


def training(
    model: Networks,
    weights: Mapping[str, Held],
    size: Size,
    setting: Setting,
    trained: int,
    *,
    half: bool = False,
    ema: bool = False,
    recompute: bool = False,
    devices: int = 1,
    encoders: bool = True,
    clips: int = 0,
    sample: bool = False,
    sizes: int = 1,
) -> dict[str, Need]:
    """{"encoding", "training", perhaps "sample video": `Need`} of one device of a training run.

    Args:
        model, setting: as of `generation`. weights: the components' `Held`, of the UNet and, where encoders, of
            "clip", "condition_encoder" and "first_stage_encoder". size: `Size`, whose frames are those of a clip and
            whose evaluated are those of a batch.
        trained: number of values that are trained: copies of loaded ones, which stay beside them, or LoRA's.
        half: the network is float16 and its trained weights are kept in float32 too. ema: a running mean is kept.
        recompute: the blocks are computed again in the backward pass. devices: that share the moments.
        encoders: they are held while training; else the clips come from a cache, which is filled first.
        clips: how many are decoded ahead, with their pixels. sample: videos are made on the way. sizes: of clips, of
            which `size` is the largest: each has graphs of its own.
    """
    parts, mapped = _encoders(model, weights, setting, sizes)
    parts["clips read ahead"] = clips * size.frames * size.height * size.width * 3 * FLOAT
    active = activations.encoder(model, size, setting)
    stages = {"encoding": _need(parts, active, mapped)}

    parts |= {
        "UNet": weights["unet"].own,
        "trained weights": FLOAT * trained,
        "sums of gradients": FLOAT * trained,
        "gradients of one batch": FLOAT * trained,
        "two moments": 2 * FLOAT * trained / devices,
    }
    compiled = sizes * (_COMPILED_RECOMPUTED if recompute else _COMPILED_TRAINING) * len(unet_blocks(model.unet))
    parts["compiled graphs"] += _FIRST_STEP + setting.compiled(compiled)
    if not encoders:
        parts["encoders"] = parts["clips read ahead"] = mapped["encoders"] = 0
    if half:
        parts["float32 weights"] = FLOAT * trained
    if ema:
        parts["running mean of the weights"] = FLOAT * trained
    mapped["unet"] = weights["unet"].mapped
    active += activations.kept_for_backward(model, size, setting, recompute)
    stages["training"] = _need(parts, active, mapped)
    if sample:
        video = generation(model, weights, size._replace(evaluated=2 * size.frames), size.frames, setting)
        decoding = video["decoding"].parts
        parts["sample video"] = sum(decoding.get(name, 0) for name in ("decoder", "activations", "compiled graphs"))
        stages["sample video"] = _need(parts, active, {**mapped, "decoder": weights["decoder"].mapped})
    return stages


def _encoders(
    model: Networks, weights: Mapping[str, Held], setting: Setting, sizes: int
) -> tuple[dict[str, float], dict[str, float]]:
    """(parts, mapped) of training's three encoders, with graphs for so many sizes."""
    blocks = model.clip.layers + 2 * _vae_blocks(model.vae, model.vae.num_res_blocks)
    coders = [weights[name] for name in ("clip", "condition_encoder", "first_stage_encoder")]
    parts = {
        "program": _PROGRAM + _FIRST_CALL,
        "encoders": sum(part.own for part in coders),
        "compiled graphs": setting.compiled(sizes * _COMPILED_SMALL * blocks),
    }
    return parts, {"program": _LIBRARIES, "encoders": sum(part.mapped for part in coders)}
