"""The page as streamlit draws it, without a browser and without a model: what its controls lead to."""

from __future__ import annotations

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


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The page, drawn once, with a server of its own whose requests are only kept: `requests`."""
    import streamlit as st
    from streamlit.testing.v1 import AppTest

    from gm.web.queue import Queue

    requests = []
    monkeypatch.setattr(sys, "argv", ["app.py", f"--output_dir={tmp_path}"])
    monkeypatch.setattr(Queue, "submit", lambda _, request: requests.append(request))
    st.cache_resource.clear()
    st.cache_data.clear()
    found = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120).run()
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
        made.append(gif(str(path), stamp(path)))
        path.unlink()
    assert made[0] != made[1]


def test_numbers_are_shown_with_all_their_digits(page):
    number(page, "Noise on the picture").set_value(0.025).run()
    box = number(page, "Noise on the picture")
    assert box.value == 0.025 and box.proto.format == "%g"


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


def test_an_output_folder_that_cannot_be_is_told_on_the_terminal(tmp_path):
    (tmp_path / "file").touch()
    code = "import sys\nfrom gm.web import state\nsys.argv = ['app.py', sys.argv[1]]\nstate.server()"
    command = [sys.executable, "-c", code, f"--output_dir={tmp_path / 'file'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "error: " in done.stderr and "Traceback" not in done.stderr
