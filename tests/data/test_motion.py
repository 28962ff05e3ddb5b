import cv2
import numpy as np
import pytest

from gm.data import motion
from gm.data.labelling import label
from tests.data.made_videos import ffmpeg, make


def texture(seed=0):
    """A picture with detail of all sizes, uint8 (700, 1000, 3)."""
    random = np.random.default_rng(seed)
    picture = np.zeros((700, 1000, 3), np.float32)
    for cells in (7, 14, 28, 56, 112):
        noise = random.normal(size=(cells, cells * 10 // 7, 3)).astype(np.float32)
        picture += cv2.resize(noise, (1000, 700), interpolation=cv2.INTER_CUBIC) / cells**0.5
    return np.clip(128 + 60 * picture, 0, 255).astype(np.uint8)


def pan(percent_per_second, height=192, width=256, fps=8, count=17):
    """The texture moving left by a share of the shortest side."""
    side = min(height, width)
    source = cv2.resize(texture(), None, fx=height / 400, fy=height / 400, interpolation=cv2.INTER_AREA)
    frames = []
    for index in range(count):
        shift = percent_per_second / 100 * side * index / fps
        matrix = np.float32([[1, 0, -shift], [0, 1, -height / 10]])
        frames.append(cv2.warpAffine(source, matrix, (width, height), flags=cv2.INTER_LINEAR))
    return np.stack(frames)


@pytest.mark.parametrize("percent", [1, 5, 20])
def test_the_score_is_the_motion_in_percent_per_second(percent):
    assert motion.motion_score(pan(percent), 8) == pytest.approx(percent, rel=0.1)


@pytest.mark.parametrize("height, width", [(128, 128), (192, 256), (400, 300)])
def test_the_score_does_not_depend_on_the_resolution(height, width):
    assert motion.motion_score(pan(10, height, width), 8) == pytest.approx(10, rel=0.1)


def test_a_picture_on_its_side_scores_the_same():
    frames = pan(10)
    on_its_side = frames.transpose(0, 2, 1, 3)
    assert motion.motion_score(on_its_side, 8) == pytest.approx(motion.motion_score(frames, 8), rel=0.02)


@pytest.mark.parametrize("fps, count", [(2, 5), (3, 7), (8, 17), (24, 49), (1, 3)])
def test_the_score_does_not_depend_on_the_frame_rate(fps, count):
    assert motion.motion_score(pan(8, fps=fps, count=count), fps) == pytest.approx(8, rel=0.1)


@pytest.fixture(scope="module")
def pan_of_8(tmp_path_factory):
    """(path, bucket) of a pan of 8 % of the shortest side each second, 2 s at 30 fps, without loss."""
    frames = pan(8, 288, 384, 30, 61)
    path = make(frames, tmp_path_factory.mktemp("pan") / "pan.mkv", "-c:v", "ffv1")
    return path, motion.bucket(motion.motion_score(frames, 30))


ENCODED = ("-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "fast")
SLOWER = "select='not(mod(n,3))',setpts=N/10/TB"
VARYING = ("-vf", "select='not(mod(n,3))+gt(n,45)'", "-fps_mode", "vfr", *ENCODED)
SAME_CONTENT = {
    "a.mp4": ENCODED,
    "a.ts": ENCODED,
    "a.mov": ("-c:v", "prores_ks"),
    "a.avi": ("-c:v", "mpeg4", "-q:v", "2"),
    "a.webm": ("-c:v", "libvpx", "-b:v", "3M", "-deadline", "realtime"),
    "slower.mkv": ("-vf", SLOWER, "-r", 10, *ENCODED),
    "turned.mp4": ("-vf", "transpose=clock", *ENCODED),
    "narrow.mp4": ("-vf", "scale=270:288,setsar=64/45", *ENCODED),
    "varying.mkv": VARYING,
    "varying.mp4": VARYING,
}


@pytest.mark.parametrize("name", SAME_CONTENT)
def test_the_bucket_depends_neither_on_container_nor_codec_nor_rate_nor_geometry(pan_of_8, tmp_path, name):
    source, bucket = pan_of_8
    path = tmp_path / name
    ffmpeg("-i", source, *SAME_CONTENT[name], path)
    if name.startswith("turned"):
        ffmpeg("-display_rotation", 90, "-i", path, "-c", "copy", tmp_path / "upright.mp4")
        path = tmp_path / "upright.mp4"
    assert int(label(tmp_path, path.name)[0][2]) == pytest.approx(bucket, abs=2)


def test_clips_shorter_than_half_a_second_are_scaled_up():
    assert motion.motion_score(pan(10, fps=24, count=6), 24) == pytest.approx(10, rel=0.15)


def test_faint_texture_moves_as_much_as_strong():
    frames = pan(20)
    faint = (frames.astype(np.float32) / 8 + 100).astype(np.uint8)
    assert motion.motion_score(faint, 8) == pytest.approx(20, rel=0.2)


def test_nothing_moves_in_a_still():
    frames = np.repeat(texture()[None, :192, :256], 9, axis=0)
    assert motion.motion_score(frames, 8) < 0.01
    noise = np.random.default_rng(0).normal(0, 3, frames.shape)
    assert motion.motion_score(np.clip(frames + noise, 0, 255).astype(np.uint8), 8) < 1


def test_faster_zooms_score_higher():
    def zoom(percent_per_second):
        frames = []
        for index in range(13):
            scale = 0.6 * (1 + percent_per_second / 100) ** (index / 6)
            matrix = np.float32([[scale, 0, 128 - 500 * scale], [0, scale, 96 - 350 * scale]])
            frames.append(cv2.warpAffine(texture(), matrix, (256, 192), flags=cv2.INTER_AREA))
        return motion.motion_score(np.stack(frames), 6)

    scores = [zoom(percent) for percent in (0, 5, 15, 40)]
    assert scores == sorted(scores) and scores[0] < 0.01 and scores[3] > 3 * scores[1]


@pytest.mark.parametrize(
    "length, fps, expected",
    [
        (25, 24.0, [0, 12, 24]),
        (24, 24.0, [0, 12]),
        (12, 24.0, [0, 11]),  # shorter than half a second: first and last
        (2, 30.0, [0, 1]),
        (5, 1.0, [0, 1, 2, 3, 4]),  # slower than 2 fps: all
        (14, 7.0, [0, 4, 7, 11]),
        (61, 29.97, [0, 15, 30, 45, 60]),
    ],
)
def test_motion_is_measured_between_two_frames_a_second(length, fps, expected):
    assert motion.sample_indices(length, fps) == expected


@pytest.mark.parametrize("length", range(2, 60))
def test_frame_numbers_stay_in_the_clip(length):
    for fps in (0.5, 2.0, 7.0, 23.976, 30.0, 59.94):
        indices = motion.sample_indices(length, fps)
        assert indices[0] == 0 and indices[-1] < length and len(indices) > 1
        assert all(a < b for a, b in zip(indices, indices[1:]))


def test_one_frame_has_no_motion():
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        motion.motion_score(np.zeros((1, 32, 32, 3), np.uint8), 8)


def test_buckets_rise_with_the_score_and_can_be_inverted():
    scores = np.concatenate([np.linspace(0, 1, 200), np.linspace(1, 500, 2000)])
    buckets = [motion.bucket(score) for score in scores]
    assert buckets == sorted(buckets) and buckets[0] == 0 and buckets[-1] == 255
    assert [motion.bucket(motion.score(bucket)) for bucket in range(256)] == list(range(256))


def test_the_published_points_of_the_mapping():
    assert [motion.bucket(score) for score in (0, 1, 3, 7, 15, 33, 1000)] == [0, 50, 100, 150, 200, 254, 255]
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="0 or more"):
            motion.bucket(wrong)
