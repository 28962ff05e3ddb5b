"""Which results of an earlier run are left as they are, and why others are made anew."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from gm.events import Sampling, Skipped, Started, Warned, Written
from gm.job import Job
from gm.loaded import Model
from gm.options import ModelSettings, VideoSettings
from tests.untrained import CONFIG

SHORT = {"num_frames": 2, "sampling_steps": 1}


@pytest.fixture(scope="module")
def model(untrained):
    return Model(ModelSettings(CONFIG, untrained, device_target="CPU", mode=1))


@pytest.fixture(scope="module")
def earlier(tmp_path_factory, model):
    """What a run left of two videos of a picture: (the picture, the folder)."""
    folder = tmp_path_factory.mktemp("earlier")
    picture(folder / "sea.png", 90)
    made(model, folder / "sea.png", folder / "out", num_videos=2)
    return folder / "sea.png", folder / "out"


def picture(path, grey):
    Image.fromarray(np.full((64, 64, 3), grey, np.uint8)).save(path)


def events_of(model, path, folder, sampling=SHORT, **settings):
    job = Job(model, VideoSettings({**SHORT, **sampling}, output_dir=folder, **settings))
    yield from job.run(job.plan(path))


def made(*arguments, **settings):
    """All events."""
    return list(events_of(*arguments, **settings))


def begun(*arguments, **settings):
    """Those up to the beginning of a video."""
    found = []
    for event in events_of(*arguments, **settings):
        found.append(event)
        if isinstance(event, Started):
            break
    return found


def what(events):
    """({kind of event: how many}, the warnings about what is there)."""
    kinds = {kind: sum(isinstance(event, kind) for event in events) for kind in (Skipped, Started, Written)}
    return kinds, [event.text for event in events if isinstance(event, Warned) and "made anew" in event.text]


@pytest.fixture
def copied(earlier, tmp_path):
    """The same in a folder of the test's own."""
    shutil.copytree(earlier[1], tmp_path / "out")
    return earlier[0], tmp_path / "out"


def test_what_is_there_is_left_and_nothing_is_loaded(copied, untrained):
    path, folder = copied
    fresh = Model(ModelSettings(CONFIG, untrained, device_target="CPU", mode=1))
    events = made(fresh, path, folder, num_videos=2, skip_done=True)
    assert [event.video.name for event in events] == ["sea_000.mp4", "sea_001.mp4"]
    assert what(events)[0][Skipped] == 2 and "denoiser" not in fresh.pipeline.components
    job = Job(fresh, VideoSettings(SHORT, output_dir=folder, num_videos=2, skip_done=True))
    assert job.graph_conditions([path])[-2] == [], "no graph is compiled for it"


def test_of_several_videos_the_missing_one_is_made_with_its_own_seed(copied, model):
    path, folder = copied
    events = made(model, path, folder, num_videos=3, skip_done=True)
    assert what(events) == ({Skipped: 2, Started: 1, Written: 1}, [])
    (written,) = (event for event in events if isinstance(event, Written))
    assert (written.video.name, written.record["seed"]) == ("sea_002.mp4", 25)
    assert sum(isinstance(event, Sampling) and event.done == 0 for event in events) == 1
    assert what(made(model, path, folder, num_videos=3, skip_done=True))[0][Skipped] == 3


def test_without_the_option_all_is_made(copied, model):
    assert what(begun(model, *copied)) == ({Skipped: 0, Started: 1, Written: 0}, [])


def cut(folder):
    os.truncate(folder / "sea_000.mp4", 100)


def later(folder):
    about = folder / "sea_000.json"
    os.utime(about, (1, 1))


def old(folder):
    about = folder / "sea_000.json"
    told = json.loads(about.read_text())
    del told["files"]
    about.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("change", "settings", "why"),
    [
        (cut, {}, "sea_000.json: sea_000.mp4 is not as it was written"),
        (lambda folder: (folder / "sea_000_sheet.png").unlink(), {}, "sea_000_sheet.png: No such file"),
        (lambda folder: None, {"sampling": {"motion_bucket_id": 60.0}}, "motion_bucket_id was 127"),
        (lambda folder: None, {"loop": True}, "loop was False and is True"),
        (lambda folder: None, {"output_fps": 3.0}, "output_fps was 7"),
        (lambda folder: None, {"output_type": "gif"}, "it is sea_000.mp4, not gif"),
        (later, {}, "was written later"),
        (old, {}, "does not tell what its files were"),
    ],
    ids=["cut", "missing", "motion", "loop", "rate", "kind", "weights", "old"],
)
def test_what_will_not_do_is_made_anew_and_said(copied, model, change, settings, why):
    path, folder = copied
    change(folder)
    kinds, (said,) = what(begun(model, path, folder, skip_done=True, **settings))
    assert why in said and kinds == {Skipped: 0, Started: 1, Written: 0}


def test_what_was_made_anew_is_there_then_and_nothing_was_overwritten(copied, model):
    path, folder = copied
    cut(folder)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    for expected in (Written, Skipped):
        kinds, said = what(made(model, path, folder, skip_done=True))
        assert kinds[expected] == 1 and bool(said) == (expected is Written)
    assert all(file.read_bytes() == content for file, content in before.items())


def test_another_picture_under_the_same_name(copied, model, tmp_path):
    path, folder = copied
    kept = path.read_bytes()
    try:
        picture(path, 91)
        kinds, (said,) = what(begun(model, path, folder, skip_done=True))
        assert "the picture was another one" in said and kinds[Started] == 1
    finally:
        path.write_bytes(kept)
    elsewhere = shutil.copy(path, tmp_path / "sea.png")
    assert what(begun(model, elsewhere, folder, skip_done=True)) == ({Skipped: 0, Started: 1, Written: 0}, [])


def test_what_changes_rounding_alone_is_the_same(copied, untrained, model):
    low = Model(ModelSettings(CONFIG, untrained, device_target="CPU", mode=1, low_memory=True))
    assert what(made(low, *copied, skip_done=True))[0][Skipped] == 1


def test_other_files_in_the_folder_are_no_results(copied, model):
    path, folder = copied
    (folder / "notes.json").write_text("{")
    (folder / "list.json").write_text("[1]")
    (folder / "sea_099.json").write_text('{"image": 3}')
    assert what(made(model, path, folder, skip_done=True))[0][Skipped] == 1
