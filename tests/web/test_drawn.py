"""The page as streamlit draws it, without a browser and without a model: what its controls lead to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from gm.data.videos import write_video
from gm.places import ROOT

pytestmark = [
    pytest.mark.browser,  # of `make test-web`, which has streamlit
    pytest.mark.skipif(
        find_spec("streamlit") is None, reason="not installed: streamlit; see requirements-test-web.txt"
    ),
]


def session():
    """One of a browser, not yet drawn."""
    from streamlit.testing.v1 import AppTest

    return AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The page, drawn once, with a server of its own whose requests are only kept, and are done at once: `requests`."""
    import streamlit as st

    from gm.web.messages import Ended
    from gm.web.queue import Queue, Ticket

    def keep(queue, request):
        requests.append(request)
        ticket = Ticket(len(requests), request)
        queue._end(ticket, Ended())
        return ticket

    requests = []
    monkeypatch.setattr(sys, "argv", ["app.py", f"--output_dir={tmp_path}"])
    monkeypatch.setattr(Queue, "submit", keep)
    st.cache_resource.clear()
    st.cache_data.clear()
    found = session().run()
    found.requests = requests
    yield found
    st.cache_resource.clear()


def number(page, label):
    return next(box for box in page.number_input if box.label == label)


def button(page, label):
    return next(one for one in page.button if one.label == label)


def test_a_sweep_asks_for_four_motions_of_longer_videos_too(page):
    number(page, "Segments").set_value(2).run()
    next(text for text in page.text_input if text.label == "Motion of each segment").set_value("160,60").run()
    page.session_state["view"] = "Motion sweep"
    button(page.run(), "Sweep").click().run()
    (request,) = page.requests
    asked = [(video.sampling["motion_bucket_id"], video.segment_motion) for video in request.videos]
    assert asked == [(20, None), (90, None), (160, None), (230, None)], "a segment's motion is that of all four"


def test_a_shape_that_the_page_does_not_make_is_told(page, tmp_path, monkeypatch):
    """A control that is given more than it takes shows the least that it takes."""
    monkeypatch.setattr("gm.web.pictures.LARGEST_SIDE", 256)  # 2048 is in svd's reach alone
    Image.fromarray(np.zeros((32, 512, 3), np.uint8)).save(tmp_path / "wide.png")
    page.session_state["picture"] = tmp_path / "wide.png"
    button(page.run(), "Its shape").click().run()
    assert (number(page, "Width").value, number(page, "Height").value) == (128, 128)
    assert any("512×32" in info.value and "256" in info.value for info in page.info)


def test_a_picture_that_took_the_name_of_another_is_read_anew(page, tmp_path):
    path = tmp_path / "demo_000_image.png"
    for time, grey in ((1, 50), (2, 200)):
        Image.fromarray(np.full((128, 128, 3), grey, np.uint8)).save(path)
        os.utime(path, (time, time))
        page.session_state["picture"] = path
        page.run()
        button(page, "Sample").click().run()
        assert (page.requests[-1].picture.image == grey).all()


def test_a_gif_is_of_the_video_that_is_there_now(page, tmp_path):
    from gm.web.results import gif
    from gm.web.state import stamp

    path, made = tmp_path / "demo_000.mp4", []
    for grey in (50, 200):
        write_video(np.full((3, 64, 64, 3), grey, np.uint8), path, 8)
        made.append(gif(path, stamp(path)))
        path.unlink()
    assert made[0] != made[1]


def test_numbers_are_shown_with_all_their_digits(page):
    number(page, "Noise on the picture").set_value(0.025).run()
    box = number(page, "Noise on the picture")
    assert box.value == 0.025 and box.proto.format == "%g"


def test_a_preset_is_named_only_while_the_values_are_its_own(page):
    (preset,) = (box for box in page.selectbox if box.label == "Preset")
    assert preset.value == "The model's own"
    steps = number(page, "Steps").value
    for value, name in ((steps + 1, None), (steps, None)):
        number(page, "Steps").set_value(value).run()
        (preset,) = (box for box in page.selectbox if box.label == "Preset")
        assert preset.value == name
    preset.set_value("Fast: 10 steps, dpmpp_2m, ays").run()
    number(page, "Seed").set_value(7).run()  # of which a preset says nothing
    assert number(page, "Steps").value == 10
    assert page.session_state["preset"] == "Fast: 10 steps, dpmpp_2m, ays" and not page.exception


def test_an_upload_that_cannot_be_kept_leaves_no_other_picture_in_its_place(page, monkeypatch):
    from gm.errors import UserError
    from gm.web import pictures

    def full(*_):
        raise UserError("the server cannot keep it: No space left on device")

    monkeypatch.setattr(pictures, "_take", lambda sent, name, without: full() if name == "picture" else False)
    page.run()
    assert not page.exception and "No space left on device" in page.error[0].value
    assert button(page, "Sample").disabled
    monkeypatch.setattr(pictures, "_take", lambda sent, name, without: full() if name == "end" else False)
    page.run()
    assert not page.exception and "The end picture cannot be used" in page.error[0].value
    assert button(page, "Sample").disabled


@pytest.mark.parametrize("view", ["Video", "Motion sweep"])
def test_a_page_that_is_loaded_anew_finds_its_request(page, view):
    page.session_state["view"] = view
    button(page.run(), {"Video": "Sample", "Motion sweep": "Sweep"}[view]).click().run()
    anew = session()
    anew.query_params["request"] = page.query_params["request"]
    anew.run()
    assert not anew.exception and anew.session_state["ticket"] is page.session_state["ticket"]
    assert anew.session_state["view"] == view
    assert session().run().session_state["ticket"] is None, "another visitor has no part in it"
    unknown = session()
    unknown.query_params["request"] = "of a server that has ended"
    assert any("not known any more" in caption.value for caption in unknown.run().caption)


def kept(folder, name, video=".mp4", **record):
    """A result in the gallery's folder, but for its video."""
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / f"{name}_image.png")
    record = {"video": f"{name}{video}", "config": "configs/svd_tiny.yaml", "width": 64, "height": 64, **record}
    (folder / f"{name}.json").write_text(json.dumps(record))
    return folder / f"{name}{video}"


def test_files_that_are_broken_or_gone_are_a_line_each_and_the_rest_is_shown(page, tmp_path):
    kept(tmp_path, "good_000")
    kept(tmp_path, "picture_000")
    (tmp_path / "picture_000_image.png").write_bytes(b"text")
    kept(tmp_path, "movie_000").write_bytes(b"")
    kept(tmp_path, "moving_000", ".gif").write_bytes(b"GIF89a")
    kept(tmp_path, "record_000", checkpoint="a\0b", sampler=["x"], seed=None)
    page.session_state["view"] = "Gallery"
    page.run()
    assert not page.exception
    shown = " ".join(text.value for text in page.markdown)
    assert all(f"**{name} 000**" in shown for name in ("good", "picture", "movie", "moving", "record"))
    lines = [text.value for text in page.caption if "cannot be read" in text.value]
    assert sorted(line.split(".")[0] for line in lines) == ["moving\\_000", "picture\\_000\\_image"]


def test_two_results_that_differ_in_what_decides_them_are_told_apart(page, tmp_path):
    usual = {"seed": 5, "fps": 7, "output_fps": 7, "guidance_shape": "linear", "cache_interval": 1, "watermark": False}
    others = {"output_fps": 12, "guidance_shape": "triangle", "cache_interval": 3, "watermark": True}
    kept(tmp_path, "usual_000", **usual)
    kept(tmp_path, "other_000", **{**usual, **others})
    page.session_state["view"] = "Gallery"
    page.run()
    other, plain = (text.value for text in page.markdown if "| seed | 5 |" in text.value)
    for name, value in others.items():
        row = f"| {name.replace('_', chr(92) + '_')} | {value} |"
        assert row in other and row not in plain, "newest first"
    assert "| guidance\\_shape | linear |" in plain and "watermark" not in plain and "output" not in plain


def test_a_result_whose_files_were_removed_is_told(page, tmp_path):
    from gm.events import Written
    from gm.web.queue import Result

    button(page, "Sample").click().run()
    record = {"width": 64, "height": 64, "motion_bucket_id": 9, "seed": 3, "frames": 3, "output_fps": 24}
    files = {name: tmp_path / f"gone.{end}" for name, end in (("video", "mp4"), ("json", "json"), ("sheet", "png"))}
    page.session_state["ticket"].results.append(Result(Written(files["video"], files, record, {}, None)))
    page.run()
    assert not page.exception
    assert [text.value for text in page.caption if "not there any more" in text.value] == [
        "gone.mp4: it is not there any more",
        "gone.png: it is not there any more",
    ]


def test_names_are_shown_as_they_are_and_need_not_be_utf_8(page, tmp_path):
    """Streamlit takes what it shows for Markdown; a name that is not UTF-8 cannot be sent to a browser at all."""
    name = os.fsdecode(b"*a* $x$ :red[b] <i> \xff_000")
    write_video(np.zeros((3, 64, 64, 3), np.uint8), kept(tmp_path, name, end_image="a|b`c"), 8)
    page.session_state["view"] = "Gallery"
    page.run()
    (heading,) = (text.value for text in page.markdown if "red" in text.value)
    assert r"**\*a\* \$x\$ \:red\[b\] \<i\> \\udcff 000**" in heading
    assert any(r"| a\|b\`c |" in text.value for text in page.markdown)
    button(page, "Make GIF").click().run()
    assert any(one.proto.label == "GIF" for one in page.get("download_button"))
    button(page, "Use these settings again").click().run()
    button(page, "Sample").click().run()
    assert not page.exception and page.requests[-1].picture.path.stem.startswith(name)


def test_an_output_folder_that_cannot_be_is_told_on_the_terminal(tmp_path):
    (tmp_path / "file").touch()
    code = "import sys\nfrom gm.web import state\nsys.argv = ['app.py', sys.argv[1]]\nstate.server()"
    command = [sys.executable, "-c", code, f"--output_dir={tmp_path / 'file'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "error: " in done.stderr and "Traceback" not in done.stderr
