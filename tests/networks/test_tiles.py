"""Encoding and decoding in tiles: the same picture as whole, no seams, and nothing left behind in the decoder."""

from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from gm import ops
from gm.data.images import fit_image, load_image, to_signed
from gm.data.metrics import psnr
from gm.data.videos import to_uint8
from gm.diffusion.latents import split_moments
from gm.networks.tiles import TiledDecoder, TiledEncoder, _joined, _places
from gm.pipeline import ImageToVideo

ROOT = Path(__file__).resolve().parents[2]
CONFIG, WEIGHTS = ROOT / "configs" / "svd_tiny.yaml", ROOT / "assets" / "svd_tiny.safetensors"


@pytest.mark.parametrize(("side", "count"), [((14, 14), 3 * 5), ((20, 14), 5)])
def test_every_pixel_is_one_tiles_own_and_comes_back_where_it_was(side, count):
    size, tile = (20, 33), 8
    whole = np.random.default_rng(0).standard_normal((2, 3, 40, 66)).astype(np.float32)
    places = list(_places(size, side, tile))
    assert len(places) == count
    counted = np.zeros(size)
    for (y, x), core in places:
        counted[y : y + side[0], x : x + 14] += core
    assert (counted == 1).all()
    tiles = [whole[:, :, 2 * y : 2 * (y + side[0]), 2 * x : 2 * x + 28] for (y, x), _ in places]
    np.testing.assert_array_equal(_joined(places, tiles, size), whole)


def latents(pipeline, height, width, frames):
    picture = fit_image(load_image(ROOT / "assets" / "demo.png"), height, width)
    pixels = np.concatenate([to_signed(np.roll(picture, 3 * k, 1)) for k in range(frames)])
    return split_moments(pipeline.condition_encoder(Tensor(pixels)).asnumpy())[0]


@pytest.mark.slow
def test_tiles_give_the_whole_picture():
    ops.set_device("CPU", ops.GRAPH_MODE)
    pipeline = ImageToVideo(CONFIG, WEIGHTS)
    z = Tensor(latents(pipeline, 128, 208, 2))
    whole = pipeline.decoder(z, 2).asnumpy()
    tiled = TiledDecoder(pipeline.decoder, 20)
    found = tiled(z, 2).asnumpy()
    assert found.shape == whole.shape
    assert psnr(to_uint8(found), to_uint8(whole)) > 45
    assert np.array_equal(tiled(z, 2).asnumpy(), found)  # and again, from the first round on
    assert np.array_equal(pipeline.decoder(z, 2).asnumpy(), whole)


def test_tiles_give_the_whole_pictures_moments():
    ops.set_device("CPU", ops.GRAPH_MODE)
    pipeline = ImageToVideo(CONFIG, WEIGHTS)
    pixels = Tensor(to_signed(fit_image(load_image(ROOT / "assets" / "demo.png"), 128, 208)))
    whole = pipeline.condition_encoder(pixels).asnumpy()
    tiled = TiledEncoder(pipeline.condition_encoder, 20)
    found = tiled(pixels).asnumpy()
    assert found.shape == whole.shape and not np.array_equal(found, whole)
    assert np.mean((found - whole) ** 2) < 10**-4.5 * whole.var()
    assert np.array_equal(pipeline.condition_encoder(pixels).asnumpy(), whole)
    pictures = [to_uint8(pipeline.decoder(Tensor(split_moments(m)[0]), 1).asnumpy()) for m in (found, whole)]
    assert psnr(*pictures) > 45


def test_a_picture_no_larger_than_a_tile_is_decoded_whole():
    pipeline = ImageToVideo(CONFIG, WEIGHTS)
    z = Tensor(latents(pipeline, 64, 64, 1))
    assert np.array_equal(TiledDecoder(pipeline.decoder, 16)(z, 1).asnumpy(), pipeline.decoder(z, 1).asnumpy())


def test_the_pipeline_encodes_and_decodes_in_tiles_in_pynative():
    pipeline = ImageToVideo(CONFIG, WEIGHTS)
    z = latents(pipeline, 64, 192, 3)
    whole, tiled = (pipeline.decode(z, pipeline.options(decode_chunk_size=2, decode_tile=tile)) for tile in (None, 64))
    assert whole.shape == tiled.shape == (3, 3, 64, 192)
    assert psnr(to_uint8(tiled), to_uint8(whole)) > 45 and not np.array_equal(tiled, whole)
    picture = fit_image(load_image(ROOT / "assets" / "demo.png"), 64, 192)
    whole, tiled = (pipeline.condition(picture, pipeline.options(encode_tile=tile)).concat for tile in (None, 64))
    assert not np.array_equal(tiled, whole)
    assert np.mean((tiled - whole) ** 2) < 10**-4.5 * whole.var()
