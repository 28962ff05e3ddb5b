"""What is frozen later: the autoencoder on still pictures, its decoder's temporal layers on clips, the image tower."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import cv2
import numpy as np
from mindspore import Tensor

from gm.data.images import to_signed
from gm.data.procedural import clip, picture
from gm.diffusion.clip_preprocess import preprocess
from gm.diffusion.latents import SCALE_FACTOR, split_moments
from gm.pretraining.losses import AutoencoderLoss, TowerLoss
from gm.pretraining.stage import Phase

if TYPE_CHECKING:
    from mindspore import nn

    from gm.pretraining.settings import Autoencoder, Clips, Decoder, Tower

# What random numbers are for: the second number of every key.
_AUTOENCODER, _DECODER, _TOWER, _SCALE = range(1, 5)
_TEMPORAL = ("time_stack", "time_mix", "mix_factor")
_MEASURED = 48  # pictures from which the latents' deviation is measured


def _pixels(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """uint8 pictures (h, w, 3) -> float32 (n, 3, h, w) in [-1, 1]."""
    return np.concatenate([to_signed(one) for one in pictures])


def _pictures(random: np.random.Generator, count: int, size: int) -> np.ndarray:
    shrunk = [cv2.resize(picture(random, 2 * size), (size, size), interpolation=cv2.INTER_AREA) for _ in range(count)]
    return _pixels(shrunk)


def _noise(random: np.random.Generator, pixels: np.ndarray, decoder: nn.Cell) -> np.ndarray:
    """Unit normal noise of the shape of the latents of `pixels`."""
    factor, z = 2 ** (len(decoder.decoder.up) - 1), decoder.decoder.conv_in.weight.shape[1]
    n, _, h, w = pixels.shape
    return random.standard_normal((n, z, h // factor, w // factor), np.float32)


def autoencoder_phase(cells: Mapping[str, nn.Cell], settings: Autoencoder, seed: int) -> Phase:
    """Encoder and decoder on still pictures. cells: {component of gm.model: cell}."""
    encoder, decoder = cells["first_stage_encoder"], cells["decoder"]
    parameters = {
        p.name: p
        for p in (*encoder.get_parameters(), *decoder.get_parameters())
        if not any(part in p.name for part in _TEMPORAL)
    }

    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng((seed, _AUTOENCODER, settings.size, step))
        pixels = _pictures(random, settings.batch_size, settings.size)
        return pixels, _noise(random, pixels, decoder)

    return Phase(AutoencoderLoss(encoder, decoder, settings.kl_weight), parameters, batch)


def pass_frames_through(decoder: nn.Cell) -> None:
    """Let the decoder's last temporal convolution begin as one that changes nothing, as all its other temporal layers
    do by their initial values: else what the image decoder has learnt would be lost in a random mixture of colours."""
    mix = decoder.decoder.conv_out.time_mix_conv
    weight = np.zeros(mix.weight.shape, np.float32)
    weight[range(len(weight)), range(len(weight)), 1] = 1
    mix.weight.set_data(Tensor(weight))
    mix.bias.set_data(Tensor(np.zeros(mix.bias.shape, np.float32)))


def decoder_phase(cells: Mapping[str, nn.Cell], settings: Decoder, clips: Clips, seed: int) -> Phase:
    """The decoder with its temporal layers on clips; the encoder stays. clips: the recipe's section clips."""
    encoder, decoder = cells["first_stage_encoder"], cells["decoder"]

    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng((seed, _DECODER, step))
        pixels = _pixels(clip(random, settings.frames, settings.size, clips.fps, clips.most_bucket).frames)
        return pixels, _noise(random, pixels, decoder)

    loss = AutoencoderLoss(encoder, decoder, 0.0, settings.frames)
    return Phase(loss, {p.name: p for p in decoder.get_parameters()}, batch)


def tower_phase(cells: Mapping[str, nn.Cell], settings: Tower, image_size: int, seed: int) -> Phase:
    """The image tower: two crops of one picture, differently lit, belong together."""

    def view(random: np.random.Generator, image: np.ndarray) -> np.ndarray:
        side = image.shape[2]
        size = int(side * random.uniform(0.5, 1.0))
        top, left = random.integers(0, side - size + 1, 2)
        crop = image[:, :, top : top + size, left : left + size]
        return preprocess(np.clip(crop * random.uniform(0.7, 1.2) + random.uniform(-0.1, 0.1), -1, 1), image_size)

    def batch(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        random = np.random.default_rng((seed, _TOWER, step))
        images = _pictures(random, settings.batch_size, settings.size)
        first, second = ([view(random, image[None]) for image in images] for _ in range(2))
        return np.concatenate(first), np.concatenate(second), np.eye(len(images), dtype=np.float32)

    parameters = {p.name: p for p in cells["clip"].get_parameters()}
    return Phase(TowerLoss(cells["clip"]), parameters, batch)


def scale_latents(cells: Mapping[str, nn.Cell], size: int, seed: int) -> None:
    """Scale the latents, channel by channel, to a deviation of 1 / SCALE_FACTOR: the encoder's last convolution and,
    inversely, the decoder's first, so that what is decoded stays the same."""
    encoder, decoder = cells["first_stage_encoder"].encoder, cells["decoder"].decoder
    pixels = _pictures(np.random.default_rng((seed, _SCALE)), _MEASURED, size)
    moments = np.concatenate([cells["first_stage_encoder"](Tensor(one[None])).asnumpy() for one in pixels])
    factor = 1 / (SCALE_FACTOR * split_moments(moments)[0].std(axis=(0, 2, 3)))
    z = len(factor)
    weight, bias = encoder.conv_out.weight.asnumpy().copy(), encoder.conv_out.bias.asnumpy().copy()
    weight[:z] *= factor[:, None, None, None]
    bias[:z] *= factor
    bias[z:] += 2 * np.log(factor)
    encoder.conv_out.weight.set_data(Tensor(weight))
    encoder.conv_out.bias.set_data(Tensor(bias))
    decoder.conv_in.weight.set_data(Tensor(decoder.conv_in.weight.asnumpy() / factor[:, None, None]))
