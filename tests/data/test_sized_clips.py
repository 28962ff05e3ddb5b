"""Several sizes as one stream: each batch of one size, nothing left out, nothing depending on where one begins."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pytest

from gm.data.clips import ClipDataset
from gm.data.loader import ClipLoader
from gm.data.metadata import Metadata, read_metadata
from gm.data.rows import Clip
from gm.data.sized_clips import SizedClips, by_size
from gm.data.videos import write_video
from gm.errors import UserError
from gm.sizes import nearest_size

SIZES = (16, 32), (32, 16), (24, 24)


class Part:
    """A data set without videos: sample p says which part it is of, and p."""

    def __init__(self, name, length):
        self.name, self.length = name, length

    def __len__(self):
        return self.length

    def at(self, position):
        return {"path": self.name, "start": position, "failures": []}


def stream(lengths, batch, seed=0):
    return SizedClips({size: Part(size, length) for size, length in zip(SIZES, lengths)}, batch, seed)


def batches(clips, count, rank=0, ranks=1, start=0):
    """[(size, positions in its stream)] of a loader's batches."""
    found = []
    for batch in ClipLoader(clips, clips.batch // ranks, rank, ranks, start_batch=start):
        assert len(set(batch["path"])) == 1, "one size in a batch"
        found.append((batch["path"][0], batch["start"]))
        if len(found) == count:
            return found


@pytest.mark.parametrize("lengths, batch", [((7, 5, 1), 2), ((40, 3, 9), 4), ((1, 1, 1), 8), ((3, 100, 2), 1)])
def test_each_size_shows_its_own_stream_in_full_batches(lengths, batch):
    shown = batches(stream(lengths, batch), 200)
    for size, length in zip(SIZES, lengths):
        positions = [position for found, group in shown for position in group if found == size]
        assert positions == list(range(len(positions)))
        assert len(positions) / (200 * batch) == pytest.approx(length / sum(lengths), abs=0.05)


@pytest.mark.parametrize("lengths, batch", [((7, 5, 1), 2), ((40, 3, 9), 4)])
def test_an_epoch_shows_every_clip_once_up_to_a_batch_of_each_size(lengths, batch):
    clips = stream(lengths, batch)
    for epochs in range(1, 9):
        shown = Counter(clips.place(position)[0] for position in range(epochs * len(clips)))
        for part, length in enumerate(lengths):
            assert abs(shown[part] - epochs * length) < (len(lengths) + 1) * batch


def test_the_order_is_drawn_for_each_epoch_from_the_seed():
    def order(epoch, seed=0):
        clips = stream((8, 8, 8), 2, seed)
        return [clips.place(position)[0] for position in range(epoch * 24, (epoch + 1) * 24, 2)]

    assert order(0) == order(0) and order(0) != order(1) and order(0) != order(0, seed=1)
    assert sorted(order(0)) == sorted(order(1)) == [0] * 4 + [1] * 4 + [2] * 4


def test_any_batch_is_found_without_those_before_it():
    whole = batches(stream((7, 5, 1), 2), 60)
    for start in (1, 17, 53):
        assert batches(stream((7, 5, 1), 2), 7, start=start) == whole[start : start + 7]
    far = 10**7
    assert batches(stream((7, 5, 1), 2), 3, start=far)[1:] == batches(stream((7, 5, 1), 2), 2, start=far + 1)


def test_all_devices_have_the_same_size_at_a_time_and_share_the_batch():
    whole = batches(stream((7, 5, 1), 4), 40)
    parts = [batches(stream((7, 5, 1), 4), 40, rank, 2) for rank in range(2)]
    for (size, positions), one, other in zip(whole, *parts):
        assert size == one[0] == other[0] and (one[1], other[1]) == (positions[::2], positions[1::2])


def test_one_size_alone_is_its_own_stream():
    clips = SizedClips({SIZES[0]: Part("a", 7)}, 3, 0)
    assert [clips.place(position) for position in range(100)] == [(0, position) for position in range(100)]


@pytest.mark.parametrize(
    "source, expected",
    [
        ((1080, 1920), (576, 1024)),
        ((1920, 1080), (1024, 576)),
        ((700, 720), (768, 768)),
        ((1000, 1333), (768, 768)),
        ((1000, 1340), (576, 1024)),
        ((480, 854), (576, 1024)),
        ((100, 3000), (576, 1024)),
    ],
)
def test_a_clip_gets_the_size_that_crops_the_least(source, expected):
    assert nearest_size(source, [(576, 1024), (1024, 576), (768, 768)]) == expected


@pytest.mark.parametrize("source, expected", [((1080, 1920), 512), ((400, 711), 256), ((200, 356), 256)])
def test_of_sizes_of_one_aspect_it_is_the_largest_that_needs_no_enlarging(source, expected):
    sizes = [(256, 512), (512, 1024)]
    assert nearest_size(source, sizes)[0] == expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, shape in (("wide", (32, 64)), ("tall", (64, 32)), ("square", (48, 48))):
        write_video(np.full((4, *shape, 3), 90, np.uint8), folder / f"{name}.mp4", 8)
    (folder / "broken.mp4").write_text("no video")
    return folder


def test_clips_are_parted_by_what_is_in_the_files(folder, caplog):
    clips = [
        Clip(folder / f"{name}.mp4", 4, 1, None, line)
        for line, name in enumerate(("square", "wide", "broken", "wide", "tall"), 2)
    ]
    with caplog.at_level(logging.WARNING):
        groups = by_size(clips, [SIZES[0], (8, 96), SIZES[1]])
    assert {size: [clip.line for clip in group] for size, group in groups.items()} == {
        SIZES[0]: [2, 3, 4, 5],
        SIZES[1]: [6],
    }
    assert "broken.mp4" in caplog.text
    assert by_size(clips, [SIZES[2]]) == {SIZES[2]: clips}


def test_no_file_is_opened_whose_size_the_list_states(folder):
    labels = folder / "labels.csv"
    labels.write_text(
        "path,length,motion_bucket_id,height,width\nbroken.mp4,9,1,200,100\nwide.mp4,9,1,,\ntall.mp4,9,1,100,200\n"
    )
    clips = read_metadata(labels, folder, 2, 1).clips
    assert [clip.size for clip in clips] == [(200, 100), None, (100, 200)]
    groups = by_size(clips, SIZES)
    assert {size: [clip.line for clip in group] for size, group in groups.items()} == {SIZES[0]: [3, 4], SIZES[1]: [2]}
    labels.write_text("path,length,motion_bucket_id,height,width\nwide.mp4,9,1,0,1.5\n")
    with pytest.raises(UserError, match="height must be at least 1 pixel, not '0'") as error:
        read_metadata(labels, folder, 2, 1)
    assert "width must be a whole number, not '1.5'" in str(error.value)


def test_data_sets_of_one_run_draw_numbers_of_their_own(folder):
    metadata = Metadata([Clip(folder / "wide.mp4", 400, 1, None, 2)] * 50, [])
    sets = [ClipDataset(metadata, 2, 1, 16, 32, stream=stream) for stream in (0, 0, 1)]
    orders = [data.order(3).tolist() for data in sets]
    assert orders[0] == orders[1] != orders[2]
    assert sets[0].identity() == sets[1].identity() != sets[2].identity()
