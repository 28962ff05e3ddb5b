"""Several videos sampled at once: what each of them would be alone, and what happens when one of them fails."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from gm import memory
from gm.batches import Batches
from gm.data.watermark import read_watermark
from gm.errors import UserError
from gm.events import Failed, Skipped, Started, Warned, Written
from gm.job import Job
from gm.loaded import Model
from gm.options import ModelSettings, VideoSettings
from svd_tools.golden.limits import PRECISIONS
from tests.near import difference
from tests.untrained import CONFIG

SHORT = {"num_frames": 3, "sampling_steps": 2, "decode_chunk_size": 2}
LEAST = {"num_frames": 1, "sampling_steps": 1}
# What the disturbed network, and a sampler's steps, may differ by in float32 for the order of their sums: one spacing
# of the noise changes the estimate of one step by up to 3.3e-5 of its largest value, with the compiled kernels and
# without.
SAMPLER, BYTES = (PRECISIONS["float32"].limits[name] for name in ("sampler", "bytes"))
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def model(untrained):
    return Model(ModelSettings(CONFIG, untrained, device_target="CPU", mode=1))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("changes", "ends"),
    [
        pytest.param({}, False, marks=SLOW),
        ({"sampler": "lcm"}, True),
        pytest.param({"guidance_sigma_max": 1.0}, False, marks=SLOW),
        ({"cache_interval": 2, "sampler": "dpmpp_2m"}, False),
        pytest.param({"max_guidance": 1.0}, False, marks=SLOW),
    ],
    ids=["euler", "loop, lcm", "limits", "DeepCache, dpmpp_2m", "unguided"],
)
def test_each_video_of_several_is_what_it_is_alone(model, changes, ends):
    pipeline = model.pipeline
    options = [
        pipeline.options(**{**SHORT, "min_guidance": 1.0, "max_guidance": 2.0, **changes}, seed=seed) for seed in (3, 4)
    ]
    conditionings = [pipeline.condition(*each) for each in zip(PICTURES, options)]
    lasts = conditionings if ends else [None, None]
    together = list(pipeline.steps_together(PICTURES[:2], options, conditionings, lasts))
    for k in range(2):
        alone = list(pipeline.steps(PICTURES[k], options[k], conditionings[k], end=lasts[k]))
        assert len(alone) == len(together)
        own = slice(3 * k, 3 * k + 3)
        assert difference(together[0].denoised[own], alone[0].denoised) < SAMPLER
        # The first step takes the estimate from a noise 700 times as large and adds the rest to it: both are rounded by
        # its spacing.
        rounded = 2 * np.spacing(np.abs(pipeline.noise(PICTURES[k], options[k])[1]).max() * np.float32(700))
        found, expected = together[-1].latents[own], alone[-1].latents
        assert np.abs(found - expected).max() < SAMPLER * np.abs(expected).max() + rounded
        assert difference(found, together[-1].latents[3 - 3 * k : 6 - 3 * k]) > 1e-2


@pytest.mark.parametrize(
    ("changes", "ends", "words"),
    [
        ({"sampling_steps": 3}, [None, None], "sampling_steps 2 and 3"),
        ({"max_guidance": 2.0}, [None, None], "max_guidance 2.5 and 2"),
        ({"decode_tile": 64}, [None, None], "decode_tile None and 64"),
        ({}, [None, "its own"], "a picture each, or none of them"),
        ({}, [None], "2 options, 2 conditionings, 1 ends: .* one of each for every video"),
    ],
)
def test_videos_that_cannot_be_sampled_at_once(model, changes, ends, words):
    """The first one's options would be taken for all, its end or none for all, and what is over be left out."""
    pipeline = model.pipeline
    options = [pipeline.options(**SHORT, seed=3), pipeline.options(**{**SHORT, **changes}, seed=4)]
    with pytest.raises(UserError, match=words):  # before anything is computed
        next(pipeline.steps_together(PICTURES[:2], options, ["what is told of"] * 2, ends))


def pictures(folder, sizes):
    """{name: path} of random pictures of these sizes."""
    random, found = np.random.default_rng(0), {}
    for name, size in sizes.items():
        found[name] = folder / f"{name}.png"
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(found[name])
    return found


def run(model, folder, paths, **settings):
    """All events of pictures in their order."""
    job = Job(model, VideoSettings({**SHORT, **settings.pop("sampling", {})}, output_dir=folder, **settings))
    events = []
    for path in paths:
        events += job.gather(job.plan(path))
    return events + list(job.finish())


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


ONE = {"a_000": 2, "c_000": 2, "b_000": 1}  # {video: how many were sampled together}, one of each picture
TWO = {"a_000": 3, "a_001": 3, "c_000": 3, "b_000": 2, "b_001": 2, "c_001": 1}


@pytest.mark.parametrize("side, watermark, batches", [(64, False, ONE), pytest.param(256, True, TWO, marks=SLOW)])
def test_files_and_records_are_those_of_one_by_one(model, tmp_path, side, watermark, batches):
    sizes = {"a": (side, side), "b": (side, side + 64), "c": (side, side)}
    paths = pictures(tmp_path, sizes).values()
    settings = {
        "num_videos": len(batches) // 3,
        "output_type": "frames",
        "watermark": watermark,
        "sampling": {"num_frames": 2, "sampling_steps": 1},
    }
    found = {}
    for batch in (1, 3):
        events = of(Written, run(model, tmp_path / str(batch), paths, batch=batch, **settings))
        found[batch] = {event.video.name.removesuffix("_frames"): event for event in events}
    assert {name: event.record["batch"] for name, event in found[3].items()} == batches
    names = [sorted(path.name for path in (tmp_path / str(batch)).iterdir()) for batch in (1, 3)]
    assert names[0] == names[1] and len(names[0]) == 4 * len(batches)
    for name, one in found[1].items():
        other = found[3][name]
        assert (one.path, one.number) == (other.path, other.number)
        assert np.abs(other.frames.astype(int) - one.frames).max() <= BYTES
        assert not watermark or all(read_watermark(frame) for frame in other.frames)
        told = [json.loads(event.files["json"].read_text()) for event in (one, other)]
        changing = ("batch", "seconds", "peak_memory_bytes", "files")
        assert all(each.keys() >= set(changing) for each in told)
        assert [{k: v for k, v in each.items() if k not in changing} for each in told[:1]] == [
            {k: v for k, v in each.items() if k not in changing} for each in told[1:]
        ]


def test_batches_are_of_one_size_and_few_pictures_wait():
    waiting = Batches(3)
    found = [waiting.add(size, k) for k, size in enumerate("aabab")]
    assert found == [[], [], [], [0, 1, 3], []] and waiting.rest() == [[2, 4]] and waiting.rest() == []
    waiting = Batches(2)
    done = [batch for k in range(500) if (batch := waiting.add(k, k))]
    assert len(done) == 500 - 2 * 64 and all(len(batch) == 1 for batch in done)


def test_what_is_there_is_left_out_of_a_batch(model, tmp_path):
    paths = list(pictures(tmp_path, {"a": (64, 64), "b": (64, 64), "c": (64, 64)}).values())
    run(model, tmp_path / "out", paths[1:2], sampling=LEAST)
    events = run(model, tmp_path / "out", paths, batch=2, skip_done=True, sampling=LEAST)
    assert [event.path for event in of(Skipped, events)] == paths[1:2]
    assert [event.record["batch"] for event in of(Written, events)] == [2, 2]
    assert len(of(Skipped, run(model, tmp_path / "out", paths, skip_done=True, sampling=LEAST))) == 3


def test_one_that_cannot_be_written_leaves_the_others(model, tmp_path, monkeypatch):
    from gm import making

    paths = list(pictures(tmp_path, {"a": (64, 64), "b": (64, 64)}).values())
    write = making.write_results

    def refuse(base, *arguments):
        if "a_000" in str(base):
            raise UserError("no ffmpeg")
        return write(base, *arguments)

    monkeypatch.setattr(making, "write_results", refuse)
    events = run(model, tmp_path / "out", paths, batch=2, sampling=LEAST)
    (failed,), (written,) = of(Failed, events), of(Written, events)
    assert (failed.path, failed.number) == (paths[0], 0) and written.path == paths[1]
    assert "no ffmpeg; the frames are kept in" in failed.text
    assert sorted(path.name for path in (tmp_path / "out").glob("a_*")) == ["a_000_frames"]


def test_what_fails_together_is_tried_one_by_one(model, tmp_path, monkeypatch):
    paths = list(pictures(tmp_path, {"a": (64, 64), "b": (64, 64)}).values())

    def fail(*_, **more):
        raise UserError("too much")

    monkeypatch.setattr(model.pipeline, "steps_together", fail)
    events = run(model, tmp_path / "out", paths, batch=2, sampling=LEAST)
    assert "too much" in of(Warned, events)[-1].text and len(of(Written, events)) == 2 and len(of(Started, events)) == 4
    monkeypatch.setattr(model.pipeline, "steps", fail)
    assert [event.path for event in of(Failed, run(model, tmp_path / "out", paths, batch=2))] == paths


def test_a_batch_that_does_not_fit_is_refused_with_the_one_that_does(model, tmp_path, monkeypatch):
    paths = list(pictures(tmp_path, {"a": (64, 64)}).values())
    settings = {"num_videos": 8, "output_type": "latents", "sampling": {"num_frames": 100}}
    job = Job(model, VideoSettings({**SHORT, "num_frames": 100}, output_dir=tmp_path, batch=8, output_type="latents"))
    sizes = [memory.peak(job.memory((64, 64), batch=batch)) for batch in (1, 2, 3, 8)]
    assert sizes == sorted(sizes) and sizes[3] - sizes[0] == pytest.approx(7 * (sizes[1] - sizes[0]))
    monkeypatch.setattr(memory, "resident_memory", lambda: 0)
    monkeypatch.setattr(memory, "available_memory", lambda: sizes[2])
    (*failed,) = of(Failed, run(model, tmp_path / "out", paths, batch=8, **settings))
    assert len(failed) == 8 and all("; --batch=3 would fit" in event.text for event in failed)


def test_no_kept_graphs_are_taken_behind_a_batch_that_fails(model, tmp_path, monkeypatch):
    """MindSpore counts graphs, and would hand those of the batch that was left out to the next one."""
    job = Job(model, VideoSettings(SHORT, output_dir=tmp_path / "out", batch=2))
    switch, seen = "MS_COMPILER_CACHE_ENABLE", []

    def check(size, **_):
        if size == (64, 64):
            raise UserError("too little memory")

    def note(batch):
        seen.append((batch[0].source.size, os.environ.get(switch)))
        yield from ()

    monkeypatch.setattr(job, "check_memory", check)
    monkeypatch.setattr(job, "_tried", note)
    monkeypatch.setenv(switch, "1")
    for path in pictures(tmp_path, {"a": (64, 64), "b": (64, 128)}).values():
        list(job.gather(job.plan(path)))
    assert len(of(Failed, list(job.finish()))) == 1
    assert seen == [((64, 128), None)]


def test_batches_that_cannot_be():
    for batch in (0, 1001):
        with pytest.raises(UserError, match=f"batch {batch}: must be (at least 1|1000 or less)"):
            VideoSettings(batch=batch)
    with pytest.raises(UserError, match="--batch and --segments"):
        VideoSettings(batch=2, segments=2)
    assert replace(VideoSettings(batch=2)).batch == 2
