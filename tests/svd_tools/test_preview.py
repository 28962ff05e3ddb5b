"""The preview: what it shows is what training gets."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image

from gm import places
from gm.data.clips import ClipDataset
from gm.data.metadata import read_metadata
from gm.data.videos import write_video
from gm.errors import UserError
from svd_tools import preview

SAMPLES = ["--frames=3", "--step=4", "--height=32", "--width=48", "--flip=0.5", "--seed=5"]
NAME = "<b>&\"x'.mp4"


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """Two videos of 30 frames whose grey value is 40 + 6 * index, brighter at the left, and a file that is none; of the
    first the list has a scene."""
    folder = tmp_path_factory.mktemp("clips")
    frames = np.zeros((30, 64, 96, 3), np.uint8) + (40 + 6 * np.arange(30, dtype=np.uint8))[:, None, None, None]
    frames[:, :, :48] += 30
    (folder / "in it").mkdir()
    for name in (NAME, "in it/b.mp4"):
        write_video(frames, folder / name, 12)
    (folder / "broken.mp4").write_text("no video")
    quoted = NAME.replace('"', '""')
    (folder / "labels.csv").write_text(
        f'path,length,motion_bucket_id,start\n"{quoted}",18,77,12\nin it/b.mp4,30,127,\nbroken.mp4,30,5,\n'
    )
    return folder / "labels.csv"


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.videos, self.captions, self.tags, self.open = [], [], set(), False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "video":
            kind, _, content = dict(attributes)["src"].partition(";base64,")
            assert kind == "data:video/mp4" and "loop" in dict(attributes)
            self.videos.append(imageio.imread(io.BytesIO(base64.b64decode(content)), extension=".mp4"))
        if tag == "figcaption":
            self.open = True
            self.captions.append("")

    def handle_endtag(self, tag):
        self.open &= tag != "figcaption"

    def handle_data(self, text):
        if self.open:
            self.captions[-1] += text + "\n"


def test_the_samples_are_those_of_training(labels, tmp_path, capsys):
    written = [f"--output={tmp_path / 'sheet.png'}", f"--html={tmp_path / 'page.html'}"]
    assert preview.main([str(labels), *SAMPLES, "--count=9", *written]) == 0
    assert "broken.mp4" in capsys.readouterr().err
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert len(page.videos) == len(page.captions) == 9 and "b" not in page.tags
    assert {caption.split("\n")[0] for caption in page.captions} == {NAME, "in it/b.mp4"}

    data = ClipDataset(read_metadata(labels, labels.parent, 3, 4), 3, 4, 32, 48, flip=0.5, seed=5)
    expected = [data.at(position) for position in range(9)]
    told = {(sample["path"].rpartition("/")[2], sample["start"], sample["flipped"]) for sample in expected}
    found = set()
    for video, caption in zip(page.videos, page.captions):
        start, mirrored = int(caption.partition("from frame ")[2].split(",")[0]), ", mirrored" in caption
        found.add((caption.split("\n")[0].rpartition("/")[2], start, mirrored))
        dark, bright = (8, 40) if mirrored else (40, 8)
        assert video.shape == (3, 32, 48, 3)
        assert np.allclose(video[:, :, dark].mean((1, 2)), 40 + 6 * (start + 4 * np.arange(3)), atol=4)
        assert np.all(video[:, 16, bright, 0] > video[:, 16, dark, 0] + 20)
        bucket = 77 if caption.startswith(NAME) else 127
        assert f"motion bucket {bucket}, fps_id 2 (3 frames per second), 32x48" in caption
        assert bucket == 127 or 12 <= start <= 21
    assert found == told and {flipped for *_, flipped in told} == {True, False}

    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[1] >= 900 and sheet.shape[0] > 9 * 32
    samples = preview.draw_samples(
        preview.preview_settings(
            places.ROOT / "configs/svd_train.yaml",
            labels,
            labels.parent,
            {
                "output_dir": str(tmp_path),
                "seed": 5,
                **{
                    f"dataset.init_args.{name}": value
                    for name, value in (("frames", 3), ("step", 4), ("height", 32), ("width", 48), ("flip", 0.5))
                },
            },
        ),
        9,
        0,
    )[1]
    for sample in samples:  # to the very bytes
        (match,) = (
            one
            for one in expected
            if (one["path"], one["start"], one["flipped"]) == (sample["path"], sample["start"], sample["flipped"])
        )
        exact = np.float32(127.5) * (match["pixels"].transpose(0, 2, 3, 1) + 1)
        assert np.abs(exact - sample["frames"]).max() < 1e-3
        rows = np.lib.stride_tricks.sliding_window_view(sheet, (32, 48, 3))[:, :9]  # frames begin at the left margin
        assert (rows == sample["frames"][0]).all((-1, -2, -3)).any()


def test_another_draw_shows_other_samples_and_settings_come_from_a_run(labels, tmp_path):
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        f"base: {places.ROOT / 'configs/svd_train.yaml'}\ntrain:\n  validation: {{share: 0.5}}\n"
        "  seed: 5\n  cache: nowhere\n  dataset:\n"
        "    init_args: {frames: 3, step: 4, sizes: [[32, 48], [48, 32]]}\n"
    )
    pages = []
    for draw in (0, 0, 1):
        path = tmp_path / f"{len(pages)}.html"
        preview.main([str(labels), f"--settings={settings}", "--count=3", f"--draw={draw}", f"--html={path}"])
        pages.append(path.read_text(encoding="utf-8"))
    assert pages[0] == pages[1] != pages[2] and "32x48 (clips: 3)" in pages[0]
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "more, words",
    [
        ([], "nothing to write"),
        (["--output=x.png", "--count=0"], "--count 0 must be at least 1"),
        (["--output=x.png", "--sizes=[[32]]"], "each is .height, width."),
        (["--output=x.png", "--flip=2"], "flip 2"),
        (["--output=x.png", "--frames=40"], "every clip is shorter"),
    ],
)
def test_wrong_options_are_one_message(labels, more, words):
    with pytest.raises(UserError, match=words):
        preview.main([str(labels), *more])
