"""The page in a real browser, with svd_tiny and its own server: `make test-web`."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from gm.data.videos import write_video
from tests.web import served
from tests.web.served import PATIENCE, Server, browser, browser_path, in_time, open_page, send, settled

MISSING = [name for name in ("streamlit", "playwright") if find_spec(name) is None]
if browser_path() is None:
    MISSING.append(f"a browser ({', '.join(served.BROWSERS)})")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; see requirements-test-web.txt"),
]
SMALL = {"Frames": 3, "Steps": 2}
ENDLESS = {"Frames": 14, "Steps": 200}  # a minute and more, in which a slow browser has loaded a page anew


def expect(what):
    """Playwright's assertions that wait."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE * 1000)
    return expect(what)


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    found = Server(tmp_path_factory.mktemp("server"), "--mode=1")
    yield found
    found.close()


@pytest.fixture
def session(chromium, server):
    """A page with the small settings."""
    found = open_page(chromium, server)
    give(found, SMALL)
    yield found
    found.context.close()


def give(page, values):
    for label, value in values.items():
        box = page.get_by_role("spinbutton", name=label, exact=True)
        box.fill(str(value))
        box.press("Enter")
        settled(page)
        assert box.input_value() == str(value), label


def press(page, name):
    page.get_by_role("button", name=name, exact=False).first.click()


def picture(width=96, height=64, kind="PNG"):
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], -1).astype(np.uint8)
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, kind)
    return pixels, memory.getvalue()


def preview(page):
    """uint8 (h, w, 3): what the page says that the model will get."""
    shown = page.locator('[data-testid="stImage"] img').first
    sent = page.request.get(shown.evaluate("image => image.src")).body()
    return np.asarray(Image.open(io.BytesIO(sent)).convert("RGB"))


def choose(page, label, option):
    """Choose from a list, by the whole text or by a pattern. A page that is drawn anew closes the list."""
    found = page.get_by_role("option", name=option, exact=isinstance(option, str))
    for attempt in range(10):
        page.get_by_role("combobox", name=re.compile(label)).click()
        if in_time(found.click, attempt):
            break
        page.keyboard.press("Escape")
    settled(page)


def holds(page, label, value):
    """Wait until a control shows a value."""
    controls = [page.get_by_role(role, name=label, exact=True) for role in ("spinbutton", "combobox")]
    expect(controls[0].or_(controls[1])).to_have_value(value)


def shown_video(page):
    """(duration in s, width, height) of the video, as the browser says."""
    page.locator("video").first.wait_for()
    page.wait_for_function("() => document.querySelector('video').readyState >= 2")
    return page.evaluate("""() => { const video = document.querySelector('video');
        return [video.duration, video.videoWidth, video.videoHeight] }""")


def loops(page):
    """Wait until the video has come to its end twice."""
    page.evaluate("""() => new Promise(done => { let ends = 0;
        document.querySelector('video').addEventListener('ended', () => { ends += 1; if (ends == 2) done(); }) })""")


def downloaded(page, name):
    with page.expect_download() as waiting:
        page.get_by_role("button", name=name, exact=True).click()
    return Path(waiting.value.path()), waiting.value.suggested_filename


def no_traceback(page):
    assert page.get_by_text("Traceback").count() == 0
    assert page.locator('[data-testid="stException"]').count() == 0


def results(server):
    """Names of the videos, the latest last."""
    paths = sorted(server.outputs.glob("*.mp4"), key=lambda path: path.stat().st_mtime_ns)
    return [path.name for path in paths]


def test_upload_sample_play_download_and_another_seed(session, server):
    give(session, {"Width": 64, "Height": 64, "Seed": 5})
    pixels, content = picture(width=128)
    send(session, "../../sea.png", content)
    slider = session.get_by_role("slider", name=re.compile("Crop"))
    slider.focus()
    slider.press("End")
    settled(session)
    fitted = preview(session)
    np.testing.assert_array_equal(fitted, pixels[:, 64:])  # exactly the right half
    press(session, "Sample")
    duration, width, height = shown_video(session)
    loops(session)
    assert (width, height) == (64, 64) and duration == pytest.approx(3 / 24, abs=0.02)
    path, name = downloaded(session, "mp4")
    meta = next(imageio_ffmpeg.read_frames(str(path)))
    assert name == "picture_000.mp4" and meta["codec"] == "h264" and meta["size"] == (64, 64)
    assert path.read_bytes() == (server.outputs / name).read_bytes()
    np.testing.assert_array_equal(np.asarray(Image.open(server.outputs / "picture_000_image.png")), fitted)
    gif, _ = downloaded(session, "GIF")
    assert Image.open(gif).n_frames == 3
    settings, _ = downloaded(session, "Settings")
    assert {"seed": 5, "crop": [1.0, 0.5]}.items() <= json.loads(settings.read_text()).items()
    session.get_by_text(re.compile(r"\d dB$")).first.wait_for()  # how close the first frame is
    give(session, {"Seed": 6})
    press(session, "Sample")
    session.get_by_text("picture_001.mp4").wait_for()
    other, _ = downloaded(session, "mp4")
    assert other.read_bytes() != path.read_bytes()
    no_traceback(session)
    kept = [str(path) for path in server.folder.rglob("*") if "sea" in path.name]
    assert not kept, "the browser's name became a path"


def test_cancel_in_the_middle_frees_the_model_for_the_next(session, server):
    before = results(server)
    give(session, ENDLESS)
    press(session, "Sample")
    session.get_by_text("What it is becoming").wait_for()
    session.get_by_text(re.compile("left$")).wait_for()
    press(session, "Cancel")
    session.get_by_text("Cancelled").wait_for()
    assert results(server) == before
    give(session, SMALL)
    press(session, "Sample")
    shown_video(session)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("text.png", b"not a picture at all", "This picture cannot be used"),
        ("cut.jpg", picture(512, 512, "JPEG")[1][:4000], "This picture cannot be used.*(truncated|damaged)"),
    ],
    ids=["text", "cut off"],
)
def test_a_bad_upload_is_one_message(session, server, name, content, words):
    send(session, name, content)
    message = session.locator('[data-testid="stAlert"]')
    message.wait_for()
    assert re.search(words, message.inner_text()) and message.count() == 1
    session.locator("button:disabled", has_text="Sample").first.wait_for()
    assert str(server.folder) not in message.inner_text()
    no_traceback(session)


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(session):
    # 20000 x 15000 pixels of one bit: the file is small
    memory = io.BytesIO()
    Image.new("1", (20000, 15000)).save(memory, "PNG")
    started = time.monotonic()
    send(session, "huge.png", memory.getvalue())
    message = session.locator('[data-testid="stAlert"]')
    message.wait_for()
    assert re.search("300.*megapixels.*250", message.inner_text(), re.DOTALL)
    assert time.monotonic() - started < PATIENCE
    no_traceback(session)


def test_a_video_that_does_not_fit_into_memory_is_refused_with_both_numbers(session):
    give(session, {"Width": 2048, "Height": 2048, "Frames": 100})
    press(session, "Sample")
    message = session.locator('[data-testid="stAlert"]').filter(has_text="not enough memory")
    message.wait_for()
    assert re.search(r"needs about [\d.]+ GB, and [\d.]+ GB are free", message.inner_text())
    no_traceback(session)


def test_a_page_that_is_loaded_anew_shows_its_request_and_can_cancel_it(session, server):
    before = results(server)
    give(session, ENDLESS)
    press(session, "Sample")
    session.get_by_text("What it is becoming").wait_for()
    session.reload()
    session.get_by_text("What it is becoming").wait_for()
    session.locator("button:disabled", has_text="Sample").first.wait_for()
    press(session, "Cancel")
    session.get_by_text("Cancelled").wait_for()
    assert results(server) == before, "it was made to the end"
    no_traceback(session)


# The contrast of two colours by WCAG 2.2, of the text of an element on what is behind it.
CONTRAST = """element => {
    const numbers = text => text.match(/[\\d.]+/g).map(Number);
    const share = value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * share(r / 255) + 0.7152 * share(g / 255) + 0.0722 * share(b / 255);
    const over = (above, below) => below.map((value, i) => above[i] * (above[3] ?? 1) + value * (1 - (above[3] ?? 1)));
    let behind = [255, 255, 255];
    for (const one of [...function* () { for (let at = element; at; at = at.parentElement) yield at; }()].reverse())
        behind = over(numbers(getComputedStyle(one).backgroundColor), behind);
    const pair = [light(behind), light(over(numbers(getComputedStyle(element).color), behind))];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_both_themes(chromium, server, scheme):
    page = open_page(chromium, server, color_scheme=scheme)
    settled(page)
    page.mouse.move(0, 0)
    for text in ("Sample", "Video", "as the model gets it", "The video appears here", "of memory are free"):
        shown = page.get_by_text(text).first
        assert shown.evaluate(CONTRAST) >= 4.5, text
    page.context.close()


def test_two_sessions_the_second_waits_and_knows_its_place(chromium, server, session):
    other = open_page(chromium, server)
    give(other, SMALL)
    give(session, ENDLESS)
    press(session, "Sample")
    session.get_by_text("What it is becoming").wait_for()
    press(other, "Sample")
    other.get_by_text("1 other comes first").wait_for()
    assert len(server.children()) == 1
    press(session, "Cancel")
    session.get_by_text("Cancelled").wait_for()
    shown_video(other)
    assert session.locator("video").count() == 0, "a session sees the other's video"
    other.context.close()


def test_a_model_s_process_that_is_killed_is_told_and_started_again(session, server):
    give(session, ENDLESS)
    press(session, "Sample")
    session.get_by_text("What it is becoming").wait_for()
    (process,) = server.children()
    os.kill(process, signal.SIGKILL)
    session.get_by_text("it was killed, as systems do when memory is out").wait_for()
    give(session, SMALL)
    press(session, "Sample")
    shown_video(session)
    assert server.children() != [process]
    no_traceback(session)


def test_presets_set_the_controls(session):
    session.get_by_text("More settings").click()
    choose(session, "Preset", "Fast: 10 steps, dpmpp_2m, ays")
    holds(session, "Steps", "10"), holds(session, "Sampler", "dpmpp_2m"), holds(session, "Noise levels", "ays")
    choose(session, "Preset", "As the original")
    for label, value in {
        "Steps": "25",
        "Sampler": "euler",
        "Noise levels": "karras",
        "Frames per second": "7",
        "Noise on the picture": "0.02",
        "Frames decoded at a time": "14",
    }.items():
        holds(session, label, value)
    session.get_by_test_id("stSlider").filter(has_text="Motion").get_by_text("127", exact=True).wait_for()
    choose(session, "Preset", "The model's own")
    for label, value in {"Steps": "12", "Sampler": "lcm", "Frames per second": "24"}.items():
        holds(session, label, value)
    no_traceback(session)


def test_end_picture_loop_and_segments(session, server):
    """Each goes to the model as the command line's does; what cannot be together is one message."""
    give(session, {"Width": 64, "Height": 64})
    folded = session.get_by_text("Loop, end picture, longer videos")
    expect(folded).to_have_count(1)  # two while it is drawn anew
    folded.click()
    pixels, content = picture(64, 64)
    send(session, "../../end.png", content, uploader=1)
    press(session, "Sample")
    shown_video(session)
    name = results(server)[-1]
    record = json.loads((server.outputs / name).with_suffix(".json").read_text())
    np.testing.assert_array_equal(np.asarray(Image.open(server.outputs / name.replace(".mp4", "_end.png"))), pixels)
    assert record["end_image"] and not record["loop"]
    give(session, {"Segments": 2})
    message = session.locator('[data-testid="stAlert"]')
    expect(message).to_have_count(1)
    assert "a longer video has no end that could be given" in message.inner_text()
    session.locator("button:disabled", has_text="Sample").first.wait_for()
    session.get_by_role("button", name="Remove").click()
    expect(message).to_contain_text("overlap 4: must be less than the 3 frames")
    give(session, {"Frames shared at a seam": 1})
    expect(message).to_have_count(0)
    session.get_by_role("textbox", name="Motion of each segment").fill("160,60,60")
    session.keyboard.press("Enter")
    expect(message).to_have_count(1)
    assert "3 numbers for 2 segments" in message.inner_text()
    session.get_by_role("textbox", name="Motion of each segment").fill("160,60")
    session.keyboard.press("Enter")
    expect(message).to_have_count(0)
    press(session, "Sample")
    session.get_by_text("5 frames of 64×64").wait_for()
    record = json.loads((server.outputs / results(server)[-1]).with_suffix(".json").read_text())
    assert (record["segments"], record["overlap"], record["segment_motion"], record["frames"]) == (2, 1, "160,60", 5)
    give(session, {"Segments": 1})
    session.get_by_text("Loop", exact=True).click()
    settled(session)
    press(session, "Sample")
    session.get_by_text("3 frames of 64×64").wait_for()
    record = json.loads((server.outputs / results(server)[-1]).with_suffix(".json").read_text())
    assert record["loop"] and record["segments"] == 1 and not record["end_image"]
    no_traceback(session)
    assert not [path for path in server.folder.rglob("*") if path.name.startswith("end.")]


def test_a_camera_move_goes_to_the_model_and_is_offered_only_where_it_fits(session, server):
    give(session, {"Width": 64, "Height": 64})
    choose(session, "Camera", "Pan left")
    press(session, "Sample")
    shown_video(session)
    name = results(server)[-1]
    (delta,) = json.loads((server.outputs / name).with_suffix(".json").read_text())["delta"]
    assert delta["path"].endswith("camera_moves/svd_tiny/pan_left.safetensors")
    choose(session, "Model", re.compile("svd_xt_1_1"))
    expect(session.get_by_role("combobox", name=re.compile("Camera"))).to_have_count(0)
    choose(session, "Model", "svd_tiny")
    holds(session, "Camera", "The model's own")
    no_traceback(session)


def test_dice_give_another_seed_each_time(session):
    box = session.get_by_role("spinbutton", name="Seed", exact=True)
    seeds = [box.input_value()]
    for _ in range(3):
        press(session, "Dice")
        expect(box).not_to_have_value(seeds[-1])
        settled(session)
        seeds.append(box.input_value())
    assert len(set(seeds)) == 4 and all(0 <= int(seed) < 2**32 for seed in seeds)
    no_traceback(session)


def test_compare_two_shows_just_these_side_by_side(session, server):
    for seed in (31, 32, 33):
        name = f"compared_{seed:03d}"
        write_video(np.full((6, 64, 64, 3), 2 * seed, np.uint8), server.outputs / f"{name}.mp4", 6)
        (server.outputs / f"{name}_image.png").write_bytes(picture(64, 64)[1])
        record = {"video": f"{name}.mp4", "seed": seed, "height": 64, "width": 64}
        (server.outputs / f"{name}.json").write_text(json.dumps(record))
    names = ["compared_033", "compared_031"]
    session.get_by_text("Gallery").click()
    for name in names:
        choose(session, "Compare two", name)
        session.keyboard.press("Escape")
    videos = session.locator("video[autoplay]")
    expect(videos).to_have_count(2)
    boxes = [videos.nth(n).bounding_box() for n in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    sent = [session.request.get(videos.nth(n).evaluate("video => video.src")).body() for n in range(2)]
    assert sent == [(server.outputs / f"{name}.mp4").read_bytes() for name in names] and sent[0] != sent[1]
    tables = [session.locator("table").nth(n).inner_text() for n in range(2)]
    assert [re.search(r"seed\s+(\d+)", text).group(1) for text in tables] == ["33", "31"]
    no_traceback(session)


def test_keyboard_alone(session, server):
    """From the top of the page with Tab to Sample, with Enter to the video."""
    before = results(server)
    session.locator("body").press("Tab")
    for _ in range(80):
        if session.evaluate("() => document.activeElement.innerText").strip().endswith("Sample"):
            break
        session.keyboard.press("Tab")
    else:
        pytest.fail("Tab does not come to Sample")
    session.keyboard.press("Enter")
    assert shown_video(session)[1:] == [128, 128]
    assert len(results(server)) == len(before) + 1


def test_pasted_picture(session):
    give(session, {"Width": 64, "Height": 64})
    pixels, content = picture(64, 64)
    session.evaluate(
        """bytes => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "pasted.png", {type: "image/png"}));
        document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
    }""",
        list(content),
    )
    session.get_by_text("pasted.png").first.wait_for()
    session.get_by_text("What the model gets").wait_for()
    settled(session)
    np.testing.assert_array_equal(preview(session), pixels)


def test_versions_without_weights_say_how_to_get_them(session):
    choose(session, "Model", re.compile("svd_xt_1_1"))
    session.get_by_text("python svd_tools/download.py svd_xt_1_1").wait_for()
    session.locator("button:disabled", has_text="Sample").first.wait_for()
    assert session.get_by_role("button", name="Load model").count() == 0
    session.get_by_role("combobox", name=re.compile("Model")).click()
    offered = session.get_by_role("option").all_inner_texts()
    assert offered[0] == "svd_tiny" and [name for name in offered if "no weights yet" in name] == offered[1:]
    session.get_by_role("option", name="svd_tiny", exact=True).click()
    session.get_by_role("button", name="Sample").first.and_(session.locator("button:enabled")).wait_for()
    assert session.get_by_text("download.py").count() == 0


def test_sweep_shows_four_videos_and_the_plot(session):
    session.get_by_role("radio", name="Motion sweep").or_(session.get_by_text("Motion sweep")).first.click()
    press(session, "Sweep")
    session.get_by_text("Both by the scale").wait_for()
    session.locator("video").nth(3).wait_for()
    assert session.locator("video").count() == 4
    session.locator('[data-testid="stVegaLiteChart"] canvas, [data-testid="stVegaLiteChart"] svg').first.wait_for()


def test_phone_width_has_nothing_that_sticks_out(chromium, server):
    page = open_page(chromium, server, viewport={"width": 390, "height": 844}, color_scheme="dark")
    settled(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    page.context.close()


def test_gallery_after_a_restart_newest_first_and_settings_used_again(chromium, tmp_path):
    first = Server(tmp_path, "--mode=1")
    page = open_page(chromium, first)
    give(page, SMALL)
    for seed in (11, 12):
        give(page, {"Seed": seed})
        press(page, "Sample")
        page.get_by_text(f"seed {seed}").wait_for()
    first.close()
    assert not list((tmp_path / "temporary").glob("svd_page_*")), "uploads stayed"
    second = Server(tmp_path, "--mode=1")
    page = open_page(chromium, second)
    page.get_by_text("Gallery").click()
    page.get_by_text("demo 000").wait_for()
    assert page.get_by_text(re.compile(r"^demo 00\d")).all_inner_texts()[:2] == ["demo 001", "demo 000"]
    page.get_by_role("button", name="Use these settings again").nth(1).click()
    page.get_by_role("button", name="Sample").wait_for()
    settled(page)
    assert page.get_by_role("spinbutton", name="Seed", exact=True).input_value() == "11"
    assert page.get_by_role("spinbutton", name="Width", exact=True).input_value() == "128"
    press(page, "Sample")
    shown_video(page)
    page.get_by_text("seed 11").wait_for()
    again = sorted(second.outputs.glob("demo_000_image_*.mp4"))
    frames = [
        np.frombuffer(frame, np.uint8)
        for path in (again[0], second.outputs / "demo_000.mp4")
        for frame in list(imageio_ffmpeg.read_frames(str(path)))[1:]
    ]
    np.testing.assert_array_equal(np.stack(frames[:3]), np.stack(frames[3:]))
    second.close()
