import logging
import os

import numpy as np
import pytest
from PIL import Image

from gm.data.clips import ClipDataset, FailureLimit, fit_frames
from gm.data.metadata import Metadata
from gm.data.rows import Clip
from gm.data.videos import write_frames, write_video
from gm.errors import UserError

COUNT, LENGTH, FRAMES, STEP = 7, 24, 4, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos 0.mp4 … 6.mp4 of 24 frames at 12 fps; the grey value of a frame is 40 + 8 * index, left brighter by 20."""
    folder = tmp_path_factory.mktemp("clips")
    frames = np.zeros((LENGTH, 48, 64, 3), np.uint8)
    frames += (40 + 8 * np.arange(LENGTH, dtype=np.uint8))[:, None, None, None]
    frames[:, :, :32] += 20
    for number in range(COUNT):
        write_video(frames, folder / f"{number}.mp4", 12)
    (folder / "broken.mp4").write_text("no video")
    return folder


def dataset(folder, names=range(COUNT), **options):
    clips = [Clip(folder / f"{name}.mp4", LENGTH, 10 * line, None, line + 2) for line, name in enumerate(names)]
    defaults = {"frames": FRAMES, "step": STEP, "height": 24, "width": 32, "seed": 3}
    return ClipDataset(Metadata(clips, []), **{**defaults, **options})


def shown(sample):
    return (sample["path"], sample["start"], bool(sample["pixels"][0, 0, 0, 0] > sample["pixels"][0, 0, 0, -1]))


def test_a_sample_holds_the_frames_it_says(folder):
    sample = dataset(folder).sample(2, 5)
    pixels = sample["pixels"]
    assert pixels.shape == (FRAMES, 3, 24, 32) and pixels.dtype == np.float32
    levels = (pixels[:, :, :, 20:].mean((1, 2, 3)) + 1) * 127.5
    assert np.allclose(levels, 40 + 8 * (sample["start"] + STEP * np.arange(FRAMES)), atol=2)
    assert sample["fps_id"] == 12 / STEP - 1 == 3.0
    assert sample["failures"] == []
    clip = next(clip for clip in dataset(folder).clips if str(clip.path) == sample["path"])
    assert sample["motion_bucket_id"] == clip.motion_bucket_id


def test_fps_comes_from_the_csv_if_it_is_there(folder):
    clip = Clip(folder / "0.mp4", LENGTH, 1, 60.0, 2)
    sample = ClipDataset(Metadata([clip], []), FRAMES, STEP, 24, 32).sample(0, 0)
    assert sample["fps_id"] == 60 / STEP - 1 == 19.0


def frames_of(folder):
    """A folder of 24 frames of grey 40 + 8 * index, as a data set at 6 fps."""
    grey = 40 + 8 * np.arange(LENGTH, dtype=np.uint8)
    write_frames(np.broadcast_to(grey[:, None, None, None], (LENGTH, 48, 64, 3)), folder)
    return ClipDataset(Metadata([Clip(folder, LENGTH, 70, 6.0, 2)], []), FRAMES, STEP, 24, 32)


def test_a_folder_of_frames_is_a_clip(tmp_path):
    data = frames_of(tmp_path / "clip")
    for epoch in range(5):
        sample = data.sample(0, epoch)
        right = 40 + 8 * (sample["start"] + STEP * np.arange(FRAMES))
        assert np.allclose((sample["pixels"].mean((1, 2, 3)) + 1) * 127.5, right, atol=0.01)
        assert sample["fps_id"] == 6 / STEP - 1 and sample["failures"] == []


def test_the_identity_knows_every_frame(tmp_path):
    data = frames_of(tmp_path / "clip")
    before = data.identity()
    assert data.identity() == before
    os.utime(tmp_path / "clip" / "00017.png", (1, 1))
    changed = data.identity()
    assert changed != before
    (tmp_path / "clip" / "00017.png").rename(tmp_path / "clip" / "x.png")
    assert data.identity() not in (before, changed)


def test_the_identity_knows_another_file_of_the_same_size_and_time(tmp_path):
    """As pictures without compression have, that an archive gives their times."""
    (tmp_path / "frames").mkdir()
    for number in range(3):
        Image.fromarray(np.full((64, 64, 3), number, np.uint8)).save(tmp_path / f"frames/{number}.bmp")
        os.utime(tmp_path / f"frames/{number}.bmp", (1, 1))
    clips = ClipDataset(Metadata([Clip(tmp_path / "frames", 3, 0, 8.0, 2)], []), 2, 1, 16, 16)
    before, size = clips.identity(), (tmp_path / "frames/1.bmp").stat().st_size
    assert clips.identity() == before
    Image.fromarray(np.full((64, 64, 3), 9, np.uint8)).save(tmp_path / "frames/1.bmp")
    os.utime(tmp_path / "frames/1.bmp", (1, 1))
    assert (tmp_path / "frames/1.bmp").stat().st_size == size and clips.identity() != before


def test_pixels_span_minus_one_to_one(tmp_path):
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    frames[:, :16] = 255
    write_video(frames, tmp_path / "a.mp4", 10)
    clips = [Clip(tmp_path / "a.mp4", 4, 1, None, 2)]
    pixels = ClipDataset(Metadata(clips, []), 4, 1, 32, 32).sample(0, 0)["pixels"]
    assert pixels.min() == pytest.approx(-1, abs=0.02) and pixels.max() == pytest.approx(1, abs=0.02)
    assert pixels[:, :, :8].min() > 0.95 and pixels[:, :, -8:].max() < -0.95


def test_starts_cover_the_clip_and_change_with_the_epoch(folder):
    data = dataset(folder, ["0"])
    starts = [data.sample(0, epoch)["start"] for epoch in range(80)]
    assert set(starts) == set(range(LENGTH - (FRAMES - 1) * STEP))


def test_no_sample_leaves_its_scene(folder):
    span = (FRAMES - 1) * STEP + 1
    clips = [Clip(folder / "0.mp4", 11, 1, None, 2, 0, True), Clip(folder / "0.mp4", 13, 2, None, 3, 11, True)]
    data = ClipDataset(Metadata(clips, []), FRAMES, STEP, 24, 32)
    starts = {1: set(), 2: set()}
    for position in range(80):
        sample = data.at(position)
        starts[sample["motion_bucket_id"]].add(sample["start"])
        levels = (sample["pixels"][:, :, :, 20:].mean((1, 2, 3)) + 1) * 127.5
        assert np.allclose(levels, 40 + 8 * (sample["start"] + STEP * np.arange(FRAMES)), atol=2)
    assert starts == {1: set(range(11 - span + 1)), 2: set(range(11, 24 - span + 1))}


def test_the_identity_knows_where_a_scene_begins(folder):
    def identity(*start):
        return ClipDataset(Metadata([Clip(folder / "0.mp4", 12, 1, None, 2, *start)], []), 4, 3, 24, 32).identity()

    assert identity(3, True) != identity(4, True) != identity(0, True) == identity()


def test_order_is_a_new_permutation_each_epoch_from_the_seed(folder):
    data = dataset(folder)
    orders = [data.order(epoch).tolist() for epoch in range(4)]
    assert all(sorted(order) == list(range(COUNT)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders == [dataset(folder).order(epoch).tolist() for epoch in range(4)]
    assert orders != [dataset(folder, seed=4).order(epoch).tolist() for epoch in range(4)]


def test_a_sample_depends_on_nothing_but_seed_epoch_and_clip(folder):
    one, other = dataset(folder, flip=0.5), dataset(folder, flip=0.5)
    forward = [shown(one.at(position)) for position in range(20)]
    backward = [shown(other.at(position)) for position in reversed(range(20))][::-1]
    assert forward == backward
    assert [shown(one.sample(position % COUNT, position // COUNT)) for position in range(20)] == forward
    assert forward != [shown(dataset(folder, flip=0.5, seed=4).at(position)) for position in range(20)]


def test_flip_mirrors_whole_samples_and_as_often_as_asked(folder):
    def mirrored(flip):
        pixels = [dataset(folder, flip=flip).at(position)["pixels"] for position in range(40)]
        right = [(p[:, 0, 12, -1] > p[:, 0, 12, 0]) for p in pixels]  # per frame
        assert all(r.all() or not r.any() for r in right)
        return sum(r.all() for r in right)

    assert mirrored(0.0) == 0 and mirrored(1.0) == 40 and 8 <= mirrored(0.5) <= 32


def test_flip_does_not_change_the_start(folder):
    starts = [[dataset(folder, flip=flip).at(p)["start"] for p in range(10)] for flip in (0.0, 1.0)]
    assert starts[0] == starts[1]


@pytest.mark.parametrize("height, width", [(64, 64), (32, 128), (50, 20), (300, 200)])
def test_fitting_keeps_the_aspect_ratio_and_the_centre(height, width):
    rows, columns = np.mgrid[:120, :160]
    frame = np.zeros((1, 120, 160, 3), np.uint8)
    frame[0, (rows - 59.5) ** 2 + (columns - 79.5) ** 2 < 24**2] = 255
    fitted = fit_frames(frame, height, width)
    assert fitted.shape == (1, height, width, 3) and fitted.dtype == np.uint8
    scale = max(height / 120, width / 160)
    for axis, size in ((1, height), (0, width)):
        profile = fitted[0, :, :, 0].max(axis=axis) > 127
        where = np.flatnonzero(profile)
        assert abs(where.mean() - (size - 1) / 2) <= 1
        assert abs(len(where) - min(size, 48 * scale)) <= 2


def test_a_frame_that_fits_already_is_not_changed():
    frames = np.random.default_rng(0).integers(0, 255, (2, 32, 48, 3), np.uint8)
    assert np.array_equal(fit_frames(frames, 32, 48), frames)
    assert np.array_equal(fit_frames(frames, 32, 32), frames[:, :, 8:40])


def test_a_broken_clip_is_replaced_in_a_fixed_way(folder):
    data = dataset(folder, ["broken", 0, 1, 2, 3])
    samples = [data.sample(int(np.flatnonzero(data.order(epoch) == 0)[0]), epoch) for epoch in range(12)]
    for sample in samples:
        ((path, reason),) = sample["failures"]
        assert path.endswith("broken.mp4") and "a text file" in reason
        assert not sample["path"].endswith("broken.mp4")
    assert len({sample["path"] for sample in samples}) > 1, "always the same stand-in"
    again = dataset(folder, ["broken", 0, 1, 2, 3])
    repeat = [again.sample(int(np.flatnonzero(again.order(epoch) == 0)[0]), epoch) for epoch in range(12)]
    assert [shown(sample) for sample in samples] == [shown(sample) for sample in repeat]


def test_a_clip_shorter_than_its_label_is_a_failure_not_a_short_sample(folder):
    clips = [Clip(folder / "0.mp4", 1000, 1, None, 2), Clip(folder / "1.mp4", LENGTH, 1, None, 3)]
    data = ClipDataset(Metadata(clips, []), FRAMES, STEP, 24, 32)
    samples = [data.at(position) for position in range(12)]
    reasons = [reason for sample in samples for _, reason in sample["failures"]]
    assert len(reasons) >= 5 and all(f"only the first {LENGTH} frames" in reason for reason in reasons)
    assert all(sample["pixels"].shape[0] == FRAMES for sample in samples)


def test_when_no_clip_can_be_read_it_says_so(folder):
    with pytest.raises(UserError, match="11 clips in a row cannot be read.*a text file"):
        dataset(folder, ["broken"] * 20).sample(0, 0)
    with pytest.raises(UserError, match="2 clips in a row"):
        dataset(folder, ["broken"] * 2).sample(0, 0)


def test_failures_are_reported_and_stop_at_the_limit(caplog):
    limit = FailureLimit(0.25)
    good, bad = {"failures": []}, {"failures": [("/x/bad.mp4", "cut off")]}
    with caplog.at_level(logging.WARNING):
        for sample in [bad, bad, good, good, good, good]:
            limit.count(sample)  # two failures are too few to judge by
    assert caplog.text.count("/x/bad.mp4 (cut off)") == 2
    for _ in range(2):
        limit.count(good)
    limit.count(bad)  # 3 of 12: 25 %, not more
    with pytest.raises(UserError, match=r"4 of 14 clips cannot be decoded \(29 %, the limit is 25 %\).*cut off"):
        limit.count(bad)


def test_arguments_are_checked(folder):
    for options, expected in [
        ({"flip": 1.5}, "flip"),
        ({"seed": -1}, "seed"),
        ({"step": 0}, "step"),
        ({"frames": 20}, "has 24 frames, 58 are needed"),
        ({"names": []}, "there are none"),
    ]:
        with pytest.raises(UserError, match=expected):
            dataset(folder, **options)
    with pytest.raises(UserError, match="max_failed_share"):
        FailureLimit(2)
