"""What the page is made of, without a browser: uploads, earlier results, settings, words."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gm.checkpoint.published import VERSIONS
from gm.errors import UserError
from gm.events import Loading, Sampling
from gm.places import ROOT
from gm.web.gallery_files import camera_of, items, settings_of, unlike, version_of
from gm.web.settings import (
    CHOICES,
    FIELDS,
    OWN_CAMERA,
    PRESETS,
    SETTINGS,
    cameras,
    config_of,
    defaults,
    help_of,
    preset,
    read_arguments,
    video_settings,
)  # fmt: skip
from gm.web.uploads import Uploads
from gm.web.words import duration, folder, place, quality, stage


def test_the_page_s_process_does_not_load_mindspore():
    code = "import sys, gm.web.queue, gm.web.settings, gm.web.gallery_files; assert 'mindspore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_uploads_lie_under_generated_names_and_go_with_the_server(tmp_path):
    dead = tmp_path / "svd_page_left"  # of a server that was killed
    dead.mkdir()
    (dead / "lock").touch()
    uploads = Uploads(tmp_path)
    assert not dead.exists()
    one, other = uploads.add(b"one"), uploads.add(b"other")
    path, kept = one.path, other.path
    assert path.read_bytes() == b"one" and path.name == kept.name == "picture" and path.parent != kept.parent
    beside = Uploads(tmp_path)  # another server leaves them alone
    assert path.exists()
    del one  # as a session does that takes another picture, or ends
    assert not path.parent.exists() and kept.exists()
    uploads.close(), beside.close()
    assert not list(tmp_path.iterdir())


def written(folder, name, **record):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / f"{name}_image.png")
    (folder / f"{name}.mp4").write_bytes(b"video")
    (folder / f"{name}.json").write_text(json.dumps({"video": f"{name}.mp4", **record}))


def test_the_gallery_shows_the_newest_first_and_only_what_lies_beside_the_record(tmp_path):
    assert items(tmp_path / "nowhere") == []
    for time, name in ((3, "a_000"), (9, "b_000"), (6, "c_000")):
        written(tmp_path, name, seed=time)
        os.utime(tmp_path / f"{name}.json", (time, time))
    assert [item.name for item in items(tmp_path)] == ["b_000", "c_000", "a_000"]
    assert set(items(tmp_path)[0].files) == {"video", "image", "json"}
    (tmp_path / "broken_000.json").write_text("{")
    (tmp_path / "list_000.json").write_text("[1]")
    (tmp_path / "deep_000.json").write_text("[" * 100_000)
    (tmp_path / "long_000.json").write_text(json.dumps({"video": "long_000" + "x" * 300}))
    assert len(items(tmp_path)) == 3
    secret = tmp_path.parent / "secret.mp4"
    secret.write_bytes(b"")
    (tmp_path / "foreign_005_frames").mkdir()
    elsewhere = (str(secret), "../secret.mp4", "b_000.mp4", 7, "", "foreign_005_frames/../../secret.mp4")
    for number, video in enumerate(elsewhere):
        written(tmp_path, f"foreign_{number:03d}")
        (tmp_path / f"foreign_{number:03d}.json").write_text(json.dumps({"video": video}))
    foreign = [item for item in items(tmp_path) if item.name.startswith("foreign")]
    assert len(foreign) == 6 and not any("video" in item.files for item in foreign)


def test_settings_of_a_record_are_what_the_controls_take():
    record = {
        **defaults("svd"),
        "seed": 2**63 - 1,
        "motion_bucket_id": 300.0,
        "fps": 6.0,
        "sampler": "other",
        "min_guidance": True,
        "max_guidance": "3",
        "config": "/x/configs/svd_xt.yaml",
    }
    found = settings_of(record)
    assert (found["motion_bucket_id"], found["fps"], found["seed"]) == (255, 6, 2**53 - 1)
    assert isinstance(found["fps"], int) and not {"sampler", "min_guidance", "max_guidance"} & set(found)
    assert version_of(record) == "svd_xt" and version_of({}) is None
    assert settings_of({}) == {"num_videos": 1, "camera": OWN_CAMERA, "loop": False}
    longer = settings_of(
        {"segments": 4, "overlap": 3, "segment_motion": "160,60,60,160", "segment_fps": 7, "loop": True}
    )
    assert longer == {
        "num_videos": 1,
        "camera": OWN_CAMERA,
        "segments": 4,
        "overlap": 3,
        "loop": True,
        "segment_motion": "160,60,60,160",
    }


def test_what_cannot_be_used_again_is_named(tmp_path):
    """The page has fewer settings and narrower limits than the command line: no other value is taken in silence."""
    model = read_arguments([f"--checkpoints_dir={tmp_path}"]).model("svd_tiny")
    own = {**defaults("svd_tiny"), "config": model.config, "checkpoint": model.checkpoint, "output_fps": 24}

    def left(**changes):
        written(tmp_path, "one_000", **{**own, "overlap": None, "segment_motion": None, "segment_fps": None, **changes})
        (item,) = items(tmp_path)
        return unlike(item, model)

    assert left() == [] and left(segments=2, overlap=3, segment_motion="20,30") == []
    assert left(fps=6.5, output_fps=6.5) == ["fps 6.5 (here 6)", "output_fps 6.5 (here 6)"]
    assert left(motion_bucket_id=300.0) == ["motion_bucket_id 300 (here 255)"]
    assert left(watermark=True, cache_interval=3) == ["cache_interval 3 (here 1)", "watermark True (here False)"]
    assert left(output_fps=8) == ["output_fps 8 (here 24)"]
    (wide,) = left(width=4096)
    assert wide.startswith("width 4096 (here ") and "width" not in settings_of({"width": 4096})
    (weights,) = left(checkpoint="/mine/tuned.safetensors")
    assert weights.startswith("checkpoint /mine/tuned.safetensors (here ")
    (delta,) = left(delta=[{"path": "/mine/lora.safetensors", "strength": 1.0}])
    assert delta.startswith("delta ") and "lora.safetensors" in delta
    assert left(config="mine.yaml") == ["model mine"]
    assert left(seed=10**400) == ["seed …" + "0" * 60 + f" (here {2**53 - 1})"]


def test_an_upload_for_which_there_is_no_space_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    uploads = Uploads(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", lambda *_: _raise(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="the server cannot keep it: No space left on device"):
        uploads.add(b"picture")
    assert [path.name for path in uploads.folder.iterdir()] == ["lock"]
    uploads.close()


def _raise(error):
    raise error


def test_the_camera_of_a_record_is_one_that_the_page_offers():
    (label, path), *_ = [(label, path) for label, path in cameras("svd_tiny").items() if path is not None]
    used = [{"path": str(path), "strength": 1.0}]
    assert camera_of({"config": "configs/svd_tiny.yaml", "delta": used}) == label
    for config, delta in (
        ("svd_xt", used),
        ("svd_tiny", used * 2),
        ("svd_tiny", [{"path": "/elsewhere"}]),
        ("svd_tiny", None),
        ("svd_tiny", "text"),
        (None, used),
        ("svd_tiny", ["text"]),
    ):
        record = {"config": config and f"configs/{config}.yaml", "delta": delta}
        assert camera_of(record) == OWN_CAMERA, record


def test_camera_moves_are_offered_where_they_fit_and_go_the_way_of_the_command_line(tmp_path, monkeypatch):
    server = read_arguments([f"--checkpoints_dir={tmp_path}"])
    offered = cameras("svd_tiny")
    assert list(offered) == [OWN_CAMERA, "Draw back", "Pan left", "Pan right", "Tilt up"]
    assert server.model("svd_tiny").delta is None
    assert server.model("svd_tiny", "Pan left").delta == str(ROOT / "assets/camera_moves/svd_tiny/pan_left.safetensors")
    (tmp_path / "svd.safetensors").touch()
    assert list(cameras("svd")) == [OWN_CAMERA] and server.model("svd", "Pan left").delta is None


def test_longer_videos_are_what_the_command_line_makes_of_the_same_settings():
    values = {**defaults("svd_tiny"), "segments": 2, "overlap": 3, "segment_motion": "160,60"}
    video = video_settings("svd_tiny", values, "here")
    assert (video.segments, video.overlap, video.segment_motion, video.segment_fps) == (2, 3, "160,60", None)
    assert video.sampling["num_frames"] == 14 and "segments" not in video.sampling
    one = video_settings("svd_tiny", {**values, "segments": 1, "loop": True}, "here")
    assert one.loop and (one.overlap, one.segment_motion) == (None, None)
    assert video_settings("svd_tiny", defaults("svd_tiny"), "here", "end.png").end_image == "end.png"


@pytest.mark.parametrize(
    ("changes", "end", "words"),
    [
        ({"loop": True}, "end.png", "give one of them"),
        ({"loop": True, "segments": 2}, None, "no end that could be given"),
        ({"segments": 2}, "end.png", "no end that could be given"),
        ({"segments": 2, "overlap": 14}, None, "overlap 14: must be less than the 14 frames"),
        ({"segments": 3, "segment_motion": "160,60"}, None, "2 numbers for 3 segments"),
        ({"segments": 2, "segment_fps": "24,fast"}, None, "give numbers with commas"),
        ({"segments": 2, "segment_motion": "160,-1"}, None, "motion_bucket_id -1.0: must be at least 0"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_loaded(changes, end, words):
    with pytest.raises(UserError, match=words):
        video_settings("svd_tiny", {**defaults("svd_tiny"), **changes}, "here", end)


@pytest.mark.parametrize("version", VERSIONS)
def test_defaults_and_presets_are_within_the_controls_limits_and_allowed(version):
    for values in (defaults(version), *({**defaults(version), **preset(name, version)} for name in PRESETS)):
        for name, field in FIELDS.items():
            assert field.least <= values[name] <= field.most and type(values[name]) is type(field.step), name
        assert all(values[name] in known for name, (_, known) in CHOICES.items())
        video_settings(version, values, "here")
        assert {name for name in SETTINGS if name in values} == set(SETTINGS)
    assert all(help_of(name).endswith(name) for name in (*SETTINGS, "height", "width"))


def test_what_the_original_does_is_what_its_preset_says():
    theirs = {
        "sampling_steps": 25,
        "sampler": "euler",
        "schedule": "karras",
        "motion_bucket_id": 127,
        "fps": 7,
        "noise_aug_strength": 0.02,
        "decode_chunk_size": 14,
    }
    for version in VERSIONS:
        found = preset("As the original", version)
        assert {name: found[name] for name in theirs} == {**theirs, "sampling_steps": 30 if "xt" in version else 25}
        own = config_of(version).sampling
        for name in ("num_frames", "min_guidance", "max_guidance"):
            assert found[name] == getattr(own, name), (version, name)


def test_options_of_the_server(tmp_path, monkeypatch):
    monkeypatch.setenv("SVD_CHECKPOINTS", str(tmp_path))
    server = read_arguments(["--mode=1", "--device_target=cpu", "--output_dir=here", "--low_memory"])
    assert (server.mode, server.device_target, server.low_memory) == (1, "CPU", True)
    assert server.output_dir.is_absolute()
    with pytest.raises(SystemExit):  # which the server ends with; anything else would be shown on the page
        read_arguments(["--device_target=tpu"])
    assert server.missing("svd_tiny") is None and "download.py svd_xt" in server.missing("svd_xt")
    with pytest.raises(UserError, match="download.py svd"):
        server.model("svd")
    (tmp_path / "svd_fp16.safetensors").touch()
    assert server.model("svd").checkpoint == str(tmp_path / "svd_fp16.safetensors")


def test_words():
    assert stage(None)[0] == "Starting the model's process"
    assert stage(Sampling(3, 12)) == ("Sampling: step 3 of 12", 0.25)
    assert stage(Loading("unet", 1, 4)) == ("Loading the UNet", 0.25)
    assert [duration(s) for s in (8.2, 300, 7200)] == ["8 s", "5 min", "2.0 h"]
    assert place(1) == "In the queue: 1 other comes first" and "3 others come" in place(3)
    numbers = {"first_frame_psnr": 30.0, "motion_bucket": 20.0, "flicker": 0.1}
    said = {what: words for what, words, _ in quality(numbers, 160)}
    assert said == {
        "First frame": "close to the picture",
        "Motion": "less than asked for",
        "Brightness": "no flicker to be seen",
    }
    assert quality({**numbers, "motion_bucket": 150.0}, 160)[1][1] == "about what was asked for"
    assert quality({**numbers, "motion_bucket": 2.0}, 160)[1][1] == "it hardly moves"
    _, said, number = quality(numbers, "160,60")[1]  # one number would be the motion of none of them
    assert (said, number) == ("asked of each segment by itself", "20, asked 160,60")
    assert quality({}, 160) == []
    assert folder(Path.cwd() / "outputs" / "page") == "outputs/page" and folder("/elsewhere/page") == "/elsewhere/page"
