"""A job's events, as the command line and the page receive them, and what is left when somebody has enough of it."""

import json
import os
import pickle
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from gm import memory
from gm.data.videos import to_uint8
from gm.diffusion.latents import SCALE_FACTOR
from gm.diffusion.preview import Preview
from gm.errors import UserError
from gm.events import Compiling, Decoding, Encoding, Loading, Sampling, Started, Warned, Written
from gm.job import Job
from gm.loaded import Model
from gm.options import ModelSettings, VideoSettings
from gm.picture import Picture, plan
from gm.segments import unshifted
from gm.weights import Weights
from tests.untrained import CONFIG

SHORT = {"num_frames": 3, "sampling_steps": 2, "decode_chunk_size": 2}
IMAGE = np.full((64, 64, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def model(untrained):
    return Model(ModelSettings(CONFIG, untrained, device_target="CPU", mode=1))


def job(model, folder, sampling=SHORT, **settings):
    return Job(model, VideoSettings(sampling, output_dir=folder, **settings))


def picture(folder):
    return Picture(folder / "sea.png", IMAGE, "64x64")


def test_events_in_their_order_and_what_they_say(tmp_path, untrained):
    fresh = Model(ModelSettings(CONFIG, untrained, device_target="CPU", mode=1))
    for number in range(2):
        events = list(job(fresh, tmp_path, {**SHORT, "seed": 4}).run(picture(tmp_path)))
        kinds = [event.part if isinstance(event, Loading) else type(event) for event in events]
        order = ["clip", "condition_encoder", Encoding, "unet", Sampling, "decoder", Decoding, Written]
        order = order if number == 0 else [kind for kind in order if not isinstance(kind, str)]  # loaded once
        assert list(dict.fromkeys(kinds)) == [Warned, Started, *order]
        assert [(e.done, e.total) for e in events if isinstance(e, Sampling)] == [(0, 2), (1, 2), (2, 2)]
        assert [(e.done, e.total) for e in events if isinstance(e, Decoding)] == [(0, 3), (2, 3), (3, 3)]
    steps = [event for event in events if isinstance(event, Sampling)]
    assert steps[0].sigma is None and steps[1].sigma > steps[2].sigma
    small = steps[2].preview()
    assert (small.shape, small.dtype) == ((3, 8, 8, 3), np.uint8)
    done, started = events[-1], events[1]
    assert (started.base, started.seed, started.number, started.total) == (tmp_path / "sea_001", 4, 1, 1)
    assert done.frames.shape == (3, 64, 64, 3) and set(done.files) == {"video", "image", "sheet", "json"}
    assert all(path.is_file() for path in done.files.values())
    assert json.loads(done.files["json"].read_text())["seed"] == done.record["seed"] == 4
    assert pickle.loads(pickle.dumps(done)).record == done.record  # it can go to another process


def test_what_does_not_fit_is_refused_before_anything_is_loaded(tmp_path, untrained, monkeypatch):
    fresh = Model(ModelSettings(CONFIG, untrained, device_target="CPU", mode=1))
    monkeypatch.setattr(memory, "resident_memory", lambda: 0)
    there = memory.peak(job(fresh, tmp_path).memory((64, 64), decode_chunk_size=1)) + 1
    monkeypatch.setattr(memory, "available_memory", lambda: there)
    with pytest.raises(UserError, match=r"decoding needs about .*; --SVD.decode_chunk_size=1 would fit"):
        list(job(fresh, tmp_path).run(picture(tmp_path)))
    assert not fresh.pipeline.components and list(tmp_path.iterdir()) == []
    assert "1.0 GB" not in job(fresh, tmp_path, {**SHORT, "decode_chunk_size": 1}).check_memory((64, 64))
    assert job(fresh, tmp_path, memory_check="off").check_memory((64, 64)) == "memory is not checked"
    monkeypatch.setattr(memory, "available_memory", lambda: there // 10)
    with pytest.raises(UserError, match="nothing that could be changed here would fit"):
        job(fresh, tmp_path).check_memory((64, 64))


def test_the_estimate_counts_what_deep_cache_keeps_of_each_film(tmp_path, model):
    def more(**settings):  # than the whole network takes
        each = [job(model, tmp_path, {**SHORT, "cache_interval": k}, **settings).memory((64, 64)) for k in (1, 2)]
        return each[1]["sampling"].own - each[0]["sampling"].own

    one = more()
    assert one == 2 * 3 * 64 * 8 * 8 * 4  # both halves of guidance, frames, channels, pixels, bytes
    assert more(loop=True) == more(end_image=tmp_path / "b.png") == 2 * one and more(batch=3) == 3 * one


def test_memory_that_runs_out_is_told_with_the_estimate(tmp_path, model, monkeypatch):
    for error in (MemoryError(), RuntimeError("std::bad_alloc\nmore"), RuntimeError("Allocate output memory failed")):

        def fail(*_, error=error, **options):
            raise error

        monkeypatch.setattr(model.pipeline, "condition", fail)
        with pytest.raises(UserError, match=r"out of memory \(.*the estimate was 0\.\d GB in decoding"):
            list(job(model, tmp_path).run(picture(tmp_path)))
    monkeypatch.setattr(model.pipeline, "condition", lambda *_, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(job(model, tmp_path).run(picture(tmp_path)))


def test_a_job_that_is_closed_leaves_no_file_and_no_memory_but_the_model(tmp_path, model, monkeypatch):
    held, condition, decode_chunks = [], model.pipeline.condition, model.pipeline.decode_chunks

    def watched(*arguments, **more):
        found = condition(*arguments, **more)
        held.append(weakref.ref(found.concat))
        return found

    def watched_chunks(*arguments):
        for pixels in decode_chunks(*arguments):
            held.extend([weakref.ref(pixels), weakref.ref(arguments[0])])
            yield pixels

    monkeypatch.setattr(model.pipeline, "condition", watched)
    monkeypatch.setattr(model.pipeline, "decode_chunks", watched_chunks)
    for kind, done in ((Started, None), (Sampling, 1), (Decoding, 2)):
        running = job(model, tmp_path).run(picture(tmp_path))
        event = next(e for e in running if isinstance(e, kind) and getattr(e, "done", None) == done)
        alive = sum(ref() is not None for ref in held)
        assert alive == {Started: 0, Sampling: 1, Decoding: 2}[kind]
        running.close()
        del event
        assert not any(ref() is not None for ref in held)
        assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".claim")], kind
        held.clear()


def test_low_memory_lets_the_model_go_when_it_is_closed(tmp_path, untrained):
    low = Model(ModelSettings(CONFIG, untrained, device_target="CPU", mode=1, low_memory=True))
    running = job(low, tmp_path).run(picture(tmp_path))
    next(event for event in running if isinstance(event, Sampling) and event.done == 1)
    assert "denoiser" in low.pipeline.components and "clip" not in low.pipeline.components
    running.close()
    assert "denoiser" not in low.pipeline.components


def test_loading_that_is_closed_half_way_begins_anew(untrained):
    pipeline = Model(ModelSettings(CONFIG, untrained, device_target="CPU", mode=1)).pipeline
    loading = pipeline.load("denoiser")
    next(loading), next(loading)
    loading.close()
    assert "denoiser" not in pipeline.components
    done, total = list(pipeline.load("denoiser"))[-1]
    assert done == total


def read_before_it_is_waited_for(monkeypatch, weights, folder, **settings):
    """(events, names of the UNet's parameters that were read before anything waited for them) of a job."""
    fresh = Model(ModelSettings(CONFIG, weights, device_target="CPU", mode=1, **settings))
    read, done = Weights._read_into, threading.Event()
    names, before, events = [], [], []

    def watched(self, p, place):
        names.append(p.name)
        result = read(self, p, place)
        done.set() if p.name.startswith("model.diffusion_model.out.2.bias") else None
        return result

    monkeypatch.setattr(Weights, "_read_into", watched)
    for event in job(fresh, folder, output_type="latents").run(picture(folder)):
        events.append(event)
        if isinstance(event, Encoding):
            done.wait(5 if not settings else 0.2)
            before += [name for name in names if name.startswith("model.diffusion_model.")]
    return events, before


def test_the_unet_is_read_while_the_picture_is_encoded(tmp_path, untrained, monkeypatch):
    events, before = read_before_it_is_waited_for(monkeypatch, untrained, tmp_path)
    told = [(event.done, event.total) for event in events if isinstance(event, Loading) and event.part == "unet"]
    assert len(before) == len(set(before)) == len(told) - 1 and told[0][0] == 0 and told[-1][0] == told[-1][1]
    _, low = read_before_it_is_waited_for(monkeypatch, untrained, tmp_path, low_memory=True)
    assert low == []


def test_what_goes_wrong_in_reading_ahead_is_told_by_the_one_that_waits(untrained, monkeypatch):
    pipeline = Model(ModelSettings(CONFIG, untrained, device_target="CPU", mode=1)).pipeline
    read = Weights._read_into

    def broken(self, p, place):
        if p.name.endswith("out.2.bias"):
            raise UserError("the file became shorter")
        return read(self, p, place)

    monkeypatch.setattr(Weights, "_read_into", broken)
    pipeline.load_ahead("denoiser")
    monkeypatch.setattr(Weights, "_read_into", read)
    with pytest.raises(UserError, match="became shorter"):
        list(pipeline.load("denoiser"))
    done, total = list(pipeline.load("denoiser"))[-1]  # anew
    assert done == total and "denoiser" in pipeline.components


def test_latents_are_not_decoded(tmp_path, model):
    events = list(job(model, tmp_path, output_type="latents").run(picture(tmp_path)))
    assert not any(isinstance(event, Decoding) for event in events)
    assert events[-1].frames is None and events[-1].video.suffix == ".npy" and "sheet" not in events[-1].files


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_videos": 0}, "num_videos 0"),
        ({"output_fps": 0}, "output_fps 0"),
        ({"output_type": "avi"}, "'avi'.*mp4"),
        ({"output_type": "latents", "watermark": True}, "watermark marks frames.*--latents_in"),
        ({"sampling": {"fsp": 7}}, "fsp.*fps"),
        ({"sampling": {"fps": 0}}, "fps 0"),
        ({"sampling": {"seed": 2**63 - 2}, "num_videos": 3}, "seed 9223372036854775808"),
        (
            {"sampling": {**SHORT, "max_guidance": 2.0, "guidance_sigma_min": 701.0}},
            "no noise level of the . steps, from .* to 700, lies within",
        ),
    ],
)
def test_settings_that_cannot_be(tmp_path, model, settings, words):
    with pytest.raises(UserError, match=words):
        job(model, tmp_path, **settings)


def test_settings_events_and_pictures_need_no_mindspore():
    code = "import sys, gm.options, gm.events, gm.console, gm.picture; assert 'mindspore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_preview_shows_the_colours_of_what_the_latents_mean():
    """Latents that are a linear function of colour and noise of their own are undone, other pictures included."""
    random = np.random.default_rng(0)
    image, other = random.integers(0, 256, (2, 64, 96, 3)).astype(np.uint8)
    into = random.normal(size=(3, 4))

    def small(picture):
        return picture.reshape(8, 8, 12, 8, 3).mean((1, 3))

    def encode(picture):
        return np.moveaxis(small(picture) / 255 @ into + 0.3, -1, 0).astype(np.float32)

    found = Preview(image, encode(image))(encode(other)[None] * np.float32(0.18215))
    assert found.shape == (1, 8, 12, 3)
    assert np.abs(found[0] - small(other)).max() < 2
    grey = np.full((64, 64, 3), 77, np.uint8)
    flat = Preview(grey, np.ones((4, 8, 8), np.float32))(np.zeros((2, 4, 8, 8), np.float32))
    assert (np.abs(flat.astype(int) - 77) <= 1).all()


def test_graph_mode_says_when_it_compiles(tmp_path, model, monkeypatch):
    monkeypatch.setattr(model, "settings", ModelSettings(CONFIG, "x", mode=0))
    model.compiled.clear()
    monkeypatch.setattr(type(model.pipeline), "steps", lambda *_: iter([]))
    one = job(model, tmp_path)
    for cached, shapes, expected in ((False, set(), 1), (True, set(), 0), (False, {(IMAGE.shape, 3, 1)}, 0)):
        model.cached, model.compiled = cached, shapes
        running, seen = one.run(picture(tmp_path)), []
        for event in running:
            seen.append(event)
            if isinstance(event, Sampling):
                break
        assert sum(isinstance(event, Compiling) for event in seen) == expected


def test_what_was_sampled_is_kept_when_it_cannot_be_written(tmp_path, model, monkeypatch):
    running = job(model, tmp_path)

    def refuse(*_):
        raise UserError("no ffmpeg")

    monkeypatch.setattr("gm.data.videos.write_video", refuse)
    with pytest.raises(UserError, match="no ffmpeg; the frames are kept in"):
        list(running.run(picture(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["sea_000_frames"]
    with pytest.raises(UserError, match="no ffmpeg"):  # now that it is known, before any work
        job(model, tmp_path)


def test_names_and_space_are_looked_at_before_the_work(tmp_path, model, monkeypatch):
    with pytest.raises(UserError, match="too long"):
        job(model, tmp_path).plan(tmp_path / ("x" * 250 + ".png"))
    monkeypatch.setattr("gm.files.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="not enough disk space"):
        next(event for event in job(model, tmp_path).run(picture(tmp_path)) if isinstance(event, Started))
    assert list(tmp_path.iterdir()) == []


def test_a_crop_that_is_moved_takes_another_part_of_the_picture(tmp_path, model):
    path = tmp_path / "wide.png"
    columns = np.arange(192, dtype=np.uint8)[None, :, None]
    Image.fromarray(np.broadcast_to(columns, (64, 192, 3)).copy()).save(path)
    settings = VideoSettings(SHORT, height=64, width=64, output_dir=tmp_path)
    for crop, left in (((0, 0.5), 0), ((0.5, 0.5), 64), ((1, 0.5), 128)):
        found = plan(model.pipeline.config, settings, path, crop)
        np.testing.assert_array_equal(found.image[0, :, 0], np.arange(left, left + 64))
    events = list(Job(model, settings).run(found))
    assert events[-1].record["crop"] == (1, 0.5) and found.change.startswith("64x192 scaled and cropped at 100%")
    np.testing.assert_array_equal(np.asarray(Image.open(events[-1].files["image"])), found.image)


def test_latents_that_are_no_numbers_are_not_written(tmp_path, model, monkeypatch):
    steps = model.pipeline.steps

    def spoilt(*arguments, **more):
        for step in steps(*arguments, **more):
            yield replace(step, latents=step.latents * np.float32(np.nan))

    monkeypatch.setattr(model.pipeline, "steps", spoilt)
    with pytest.raises(UserError, match="NaN"):
        list(job(model, tmp_path, output_type="latents").run(picture(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_latents_are_decoded_to_the_frames_that_they_were_part_of(tmp_path, model):
    """Elsewhere, at the frame rate that their JSON file tells; what was not used is not said to have been."""
    sampling = {**SHORT, "fps": 9.0, "seed": 4}
    whole = list(job(model, tmp_path, sampling).run(picture(tmp_path)))[-1]
    kept = list(job(model, tmp_path, sampling, output_type="latents").run(picture(tmp_path)))[-1].video
    elsewhere = job(model, tmp_path / "out", {"decode_chunk_size": 2})
    given = elsewhere.read_latents(kept)
    assert (given.size, given.frames, given.change) == ((64, 64), 3, "3 frames of 64x64 (height x width)")
    events = list(elsewhere.run(given))
    assert not any(isinstance(event, (Encoding, Sampling)) for event in events)
    done = events[-1]
    np.testing.assert_array_equal(done.frames, whole.frames)
    record = json.loads(done.files["json"].read_text())
    assert record["output_fps"] == 9.0 and record["latents_in"] == str(kept) and record["num_frames"] == 3
    assert record["seed"] is None and record["decode_chunk_size"] == 2 and "image" not in done.files
    asked = job(model, tmp_path / "out", {"decode_chunk_size": 2, "fps": 5.0})
    assert list(asked.run(asked.read_latents(kept)))[-1].record["output_fps"] == 5.0  # what is asked for counts
    assert elsewhere.memory(given.size, frames=3).keys() == {"decoding"}
    alone, together = (memory.peak(elsewhere.memory((64, 64), **kind)) for kind in ({"frames": 3}, {"num_frames": 3}))
    assert alone < together


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"no numbers", "no whole .npy"),
        (np.zeros((1, 4, 2, 2), int), "int64"),
        (np.zeros((3, 8, 4, 4), np.float32), r"\(3, 8, 4, 4\).*4,"),
        (np.zeros((4, 4), np.float32), r"\(4, 4\)"),
        (np.full((1, 4, 2, 2), np.inf, np.float32), "infinite"),
        (np.full((1, 4, 2, 2), 1e300), "infinite"),
        (
            b"\x93NUMPY\x01\0v\0{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999, 4, 2, 2), }".ljust(
                128
            ),
            "no whole",
        ),
        ("pipe", "is a pipe, not a file"),
    ],
)
def test_latents_that_cannot_be(tmp_path, model, content, words):
    path = tmp_path / "a.npy"
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif content == "pipe":
        os.mkfifo(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        job(model, tmp_path).read_latents(path)


def test_a_video_ends_with_another_picture_or_with_its_own(tmp_path, model, monkeypatch):
    condition, steps, told, ends = model.pipeline.condition, model.pipeline.steps, [], []

    def watched_condition(image, options, **more):
        told.append((image, condition(image, options, **more)))
        return told[-1][1]

    def watched_steps(*arguments, end, known):
        ends.append((arguments[2], end))
        return steps(*arguments, end=end, known=known)

    monkeypatch.setattr(model.pipeline, "condition", watched_condition)
    monkeypatch.setattr(model.pipeline, "steps", watched_steps)
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    Image.fromarray(np.full((100, 80, 3), 200, np.uint8)).save(tmp_path / "b.png")
    for settings in ({"end_image": tmp_path / "b.png"}, {"loop": True}, {}):
        told.clear()
        one = job(model, tmp_path, output_type="latents", **settings)
        done = list(one.run(one.plan(tmp_path / "a.png")))[-1]
        first, end = ends.pop()
        assert first is told[0][1]
        if settings.get("end_image"):
            assert end is told[1][1] and (told[1][0] == 200).all() and told[1][0].shape == IMAGE.shape
            assert done.record["end_image"] == str(tmp_path / "b.png")
            np.testing.assert_array_equal(np.asarray(Image.open(done.files["end"])), told[1][0])
        else:
            assert end is (first if settings else None) and len(told) == 1 and "end" not in done.files
        assert done.record["loop"] == settings.get("loop", False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loop": True, "end_image": "b.png"}, "--loop.*--end_image"),
        ({"loop": True, "sampling": {**SHORT, "num_frames": 1}}, "--loop need a last frame.*--SVD.num_frames=2"),
    ],
)
def test_ends_that_make_no_sense(tmp_path, model, settings, words):
    with pytest.raises(UserError, match=words):
        job(model, tmp_path, **settings)


def test_a_longer_video_goes_on_from_what_it_had(tmp_path, model, monkeypatch):
    """Each segment begins with a frame of the one before, knows its last latents, and adds what is new."""
    condition, steps, told, seen = model.pipeline.condition, model.pipeline.steps, [], []

    def watched_condition(image, options, **more):
        told.append([image, options])
        seen.append((more["latents"], condition(image, options, **more)))
        return seen[-1][1]

    def watched_steps(*arguments, known=None, **more):
        told[-1].append(known)
        for step in steps(*arguments, known=known, **more):
            yield step
        told[-1].append(step.latents)

    monkeypatch.setattr(model.pipeline, "condition", watched_condition)
    monkeypatch.setattr(model.pipeline, "steps", watched_steps)
    settings = {"segments": 3, "overlap": 2, "segment_motion": "100,50,20", "segment_fps": "8,9,10"}
    whole = list(job(model, tmp_path, **settings).run(picture(tmp_path)))
    frames, record = whole[-1].frames, whole[-1].record
    assert frames.shape == (5, 64, 64, 3)  # 3 + 1 + 1
    assert sum(isinstance(event, Sampling) and event.done == 0 for event in whole) == 3
    assert [(o.motion_bucket_id, o.fps) for _, o, *_ in told] == [(100, 8), (50, 9), (20, 10)]
    assert len({o.seed for _, o, *_ in told}) == 3 and told[0][2] is None
    for before, now, (latents, conditioning) in zip(told, told[1:], seen[1:]):
        plain = to_uint8(model.pipeline.decode(before[3], now[1]))
        right = unshifted(plain, 2)
        np.testing.assert_array_equal(now[0], right[0])
        was, is_now = (np.stack([model.pipeline.encode(each, now[1]) for each in two]) for two in (plain[-2:], right))
        np.testing.assert_allclose(now[2], before[3][-2:] + is_now - was, atol=1e-5)
        np.testing.assert_array_equal(latents, now[2][0])  # it sees what it begins with, not a picture encoded anew
        clean = condition(now[0], now[1].changed(noise_aug_strength=0.0), latents=latents).concat
        np.testing.assert_allclose(clean * np.float32(SCALE_FACTOR), np.stack([latents] * 3), atol=1e-5)
        noise = condition(now[0], now[1]).concat - condition(now[0], now[1].changed(noise_aug_strength=0.0)).concat
        np.testing.assert_allclose(conditioning.concat, clean + noise, atol=1e-5)
        assert np.abs(noise).max() > 1e-3
        np.testing.assert_allclose(now[3][0], now[2][0], atol=1e-5)  # where all of the weight is the earlier one's
    assert (record["segments"], record["overlap"], record["frames"]) == (3, 2, 5)
    assert record["segment_motion"] == "100,50,20" and record["segment_fps"] == "8,9,10"
    assert record["output_fps"] == record["fps"] == 7  # the file's is SVD.fps

    one = job(model, tmp_path, output_type="latents", **settings)
    latents = np.load(list(one.run(picture(tmp_path)))[-1].video)
    first, second, third = (each[3] for each in told[3:])
    assert latents.shape == (5, 4, 8, 8)
    np.testing.assert_array_equal(latents[[0, 1, 4]], [first[0], first[1], third[2]])  # frames 1 to 3 are shared
    np.testing.assert_allclose(latents[3], third[1] / 2 + second[2] / 2, atol=1e-6)
    assert memory.peak(one.memory((64, 64))) > memory.peak(job(model, tmp_path).memory((64, 64)))


def test_what_the_model_has_not_seen_is_told_of_every_segment(tmp_path, model):
    more = {"segments": 2, "overlap": 1, "sampling": SHORT}
    told = job(model, tmp_path, segment_motion="60,300", segment_fps="40,7", **more).warnings()
    assert [words.split(" is ")[0] for words in told] == ["fps 40", "motion_bucket_id 300"]


def test_what_continues_given_latents_is_told_the_frame_rate_that_they_were(tmp_path, model):
    """At which the whole plays, or at --output_fps of then."""
    nine, settings = {**SHORT, "fps": 9.0}, {"segments": 2, "overlap": 1}
    whole = list(job(model, tmp_path, nine, **settings).run(picture(tmp_path)))[-1]
    kept = list(job(model, tmp_path, nine, output_type="latents", output_fps=30.0).run(picture(tmp_path)))[-1].video
    longer, asked = (job(model, tmp_path, {**SHORT, **fps}, **settings) for fps in ({}, {"fps": 20.0}))
    found, other = (list(each.run(each.read_latents(kept)))[-1] for each in (longer, asked))
    np.testing.assert_array_equal(found.frames, whole.frames)
    assert (found.record["fps"], found.record["output_fps"]) == (9.0, 30.0)
    assert other.record["fps"] == other.record["output_fps"] == 20.0  # what is asked for counts
    assert np.any(other.frames[3:] != found.frames[3:])


def test_all_latents_that_are_given_are_decoded_once_each(tmp_path, model, monkeypatch):
    for name, seed in (("a", 1), ("b", 2)):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(seed).normal(size=(seed, 4, 8, 8)).astype(np.float32))
    several = job(model, tmp_path / "out", {"decode_chunk_size": 2}, batch=2, num_videos=3)
    events = [event for name in "ab" for event in several.gather(several.read_latents(tmp_path / f"{name}.npy"))]
    written = [event for event in (*events, *several.finish()) if isinstance(event, Written)]
    assert [(event.video.name, len(event.frames)) for event in written] == [("a_000.mp4", 1), ("b_000.mp4", 2)]
    decoding, sampling = (memory.peak(several.memory((64, 64), frames=frames)) for frames in (1, None))
    monkeypatch.setattr(memory, "resident_memory", lambda: 0)
    monkeypatch.setattr(memory, "available_memory", lambda: (decoding + sampling) / 2)
    assert decoding < sampling and isinstance(list(several.run(several.read_latents(tmp_path / "a.npy")))[-1], Written)


def test_a_gif_that_cannot_play_that_fast_is_told(tmp_path, model):
    for kind, fps, told in (("gif", 50.0, False), ("gif", 51.0, True), ("mp4", 60.0, False)):
        for settings in ({"output_fps": fps}, {"sampling": {**SHORT, "fps": fps}}):
            words = " ".join(job(model, tmp_path, **settings, output_type=kind).warnings())
            assert (f"{fps:g} frames per second" in words and "plays at 50" in words) == told


def test_given_latents_are_continued(tmp_path, model):
    kept = list(job(model, tmp_path, output_type="latents").run(picture(tmp_path)))[-1].video
    longer = job(model, tmp_path, segments=2, overlap=1)
    done = list(longer.run(longer.read_latents(kept)))[-1]
    whole = list(job(model, tmp_path, segments=2, overlap=1).run(picture(tmp_path)))[-1]
    np.testing.assert_array_equal(done.frames, whole.frames)
    assert done.record["frames"] == 5 and done.record["seed"] == 23
    np.save(tmp_path / "short.npy", np.load(kept)[:1])
    with pytest.raises(UserError, match="1 frames cannot be continued with --overlap=1"):
        list(longer.run(longer.read_latents(tmp_path / "short.npy")))


def test_what_there_is_of_a_longer_video_is_kept(tmp_path, model, monkeypatch):
    steps, calls = model.pipeline.steps, []

    def failing(*arguments, **more):
        calls.append(1)
        if len(calls) == 2:
            raise UserError("no more")
        return steps(*arguments, **more)

    monkeypatch.setattr(model.pipeline, "steps", failing)
    with pytest.raises(UserError, match="no more; the frames are kept in"):
        list(job(model, tmp_path, segments=2, overlap=1).run(picture(tmp_path)))
    assert len(list((tmp_path / "sea_000_frames").iterdir())) == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"segments": 0}, "segments 0"),
        ({"segments": 2, "overlap": 0}, "overlap 0"),
        ({"overlap": 1}, "--overlap.*more"),
        ({"segments": 2, "overlap": 3}, "overlap 3: must be less than the 3 frames"),
        ({"segments": 2, "loop": True}, "--segments and --loop"),
        ({"segment_fps": "7"}, "--segment_fps.*--segments"),
        ({"segments": 2, "overlap": 1, "segment_motion": "1,2,3"}, "segment_motion=1,2,3: 3 numbers for 2 segments"),
        ({"segments": 2, "overlap": 1, "segment_motion": "1,x"}, "segment_motion=1,x: give numbers"),
        ({"segments": 2, "overlap": 1, "segment_fps": "7,0"}, "fps 0"),
    ],
)
def test_segments_that_cannot_be(tmp_path, model, settings, words):
    with pytest.raises(UserError, match=words):
        job(model, tmp_path, **settings)
