from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from safetensors.numpy import load_file

from gm.data.videos import write_video
from gm.data.watermark import WATERMARK, embed_watermark, read_watermark
from gm.errors import UserError

ROOT = Path(__file__).resolve().parent.parent.parent


def to_unit(pixels):
    """uint8 (t, h, w, 3) → float32 (t, 3, h, w) in [0, 1]."""
    return (pixels.astype(np.float32) / np.float32(255)).transpose(0, 3, 1, 2)


def to_pixels(frames):
    return (frames * np.float32(255)).astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def pictures():
    """Two different pictures of 384x640, uint8 (2, h, w, 3)."""
    picture = cv2.imread(str(ROOT / "assets" / "demo.png"))[..., ::-1]
    picture = cv2.resize(np.ascontiguousarray(picture), (640, 384), interpolation=cv2.INTER_CUBIC)
    return np.stack([picture, picture[:, ::-1]])


def test_equals_the_original():
    """Recorded from the original with OpenCV 5: 264x250, a width that is no multiple of 4."""
    recorded = load_file(ROOT / "tests" / "goldens" / "watermark_golden.safetensors")
    marked = embed_watermark(to_unit(recorded["in/frames_uint8"]))
    crop = marked[0, :, 100:132, 100:132]
    np.testing.assert_allclose(crop, recorded["out/frame0_float_crop"], rtol=0, atol=1e-6)
    difference = np.abs(to_pixels(marked).astype(int) - recorded["out/frames_uint8"])
    # Truncation turns a rounding error at a whole number into a step of 1.
    assert difference.max() <= 1 and (difference > 0).mean() < 3e-4


def test_is_read_back_from_every_frame(pictures):
    marked = embed_watermark(to_unit(pictures))
    assert marked.dtype == np.float32 and marked.shape == (2, 3, 384, 640)
    assert marked.min() >= 0 and marked.max() <= 1
    assert [read_watermark(frame) for frame in to_pixels(marked)] == [WATERMARK] * 2
    assert WATERMARK not in [read_watermark(frame) for frame in pictures]


def test_is_hard_to_see_and_leaves_its_input_alone(pictures):
    frames = to_unit(pictures)
    before = frames.copy()
    marked = embed_watermark(frames)
    np.testing.assert_array_equal(frames, before)
    error = marked - frames
    assert 10 * np.log10(1 / np.mean(error**2)) > 38  # dB
    luma = np.tensordot(np.float32([0.299, 0.587, 0.114]), error, (0, 1))
    assert np.abs(luma).mean() < 2e-4


def test_survives_our_own_videos(pictures, tmp_path):
    write_video(to_pixels(embed_watermark(to_unit(pictures))), tmp_path / "x.mp4", 7)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "x.mp4"))
    width, height = next(reader)["size"]
    read = [read_watermark(np.frombuffer(frame, np.uint8).reshape(height, width, 3)) for frame in reader]
    assert read == [WATERMARK] * 2


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_a_plain_frame_changes_in_whole_blocks_only(level):
    """A block covers 8x8 pixels; 263x269 leaves 7 rows and 5 columns of pixels over."""
    marked = embed_watermark(np.full((1, 3, 263, 269), level, np.float32))[0]
    assert read_watermark(to_pixels(marked[None])[0]) == WATERMARK
    changed = np.abs(marked - level).max(axis=0) > 3e-3  # YUV and back alone moves a grey by less than one level
    assert not changed[256:].any() and not changed[:, 264:].any()
    blocks = changed[:256, :264].reshape(32, 8, 33, 8).sum(axis=(1, 3))
    assert (blocks == 4).all()  # one entry of the low band is 2x2 pixels


def test_details_down_and_across_change_places_up_to_the_last_multiple_of_4():
    """A slip of the original: in U, rows that alternate become columns, also where no whole block of 8 is left."""
    even = 0.2 * (np.arange(262) % 2 == 0)
    frame = np.full((1, 3, 262, 256), 0.5, np.float32)
    frame[0, 2] += even[:, None].astype(np.float32)
    blue = embed_watermark(frame)[0, 2]
    luma = 0.5 + 0.114 * even[:, None]
    np.testing.assert_allclose(blue[256:260], (luma + 0.886 * even[:256])[256:260], atol=2e-3)
    np.testing.assert_allclose(blue[260:], frame[0, 2, 260:], atol=2e-3)


def test_smallest_size():
    pixels = np.full((1, 256, 256, 3), 128, np.uint8)
    assert read_watermark(to_pixels(embed_watermark(to_unit(pixels)))[0]) == WATERMARK
    for call in (lambda: embed_watermark(to_unit(pixels[:, :, 1:])), lambda: read_watermark(pixels[0, :, 1:])):
        with pytest.raises(UserError, match="255x256 are too small.*larger size"):
            call()


def test_wrong_arrays_are_a_programming_error(pictures):
    frames = to_unit(pictures)
    for wrong in (frames[0], frames.astype(np.float64), pictures):
        with pytest.raises(ValueError, match=r"float32 \(t, 3, h, w\)"):
            embed_watermark(wrong)
    for wrong in (pictures, frames[0], pictures[0].transpose(2, 0, 1)):
        with pytest.raises(ValueError, match=r"uint8 \(h, w, 3\)"):
            read_watermark(wrong)
