"""Which results of an earlier run are left as they are, and why others are made anew."""

import copy
import json
import os
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from gm import done
from gm.data.outputs import write_json, write_png
from gm.events import Sampling, Skipped, Started, Warned, Written
from gm.graphs import INDIFFERENT, conditions
from gm.job import Job
from gm.loaded import Model
from gm.options import ModelSettings, Options, VideoSettings
from gm.picture import Picture
from gm.results import fingerprint
from gm.settings import about, option
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
    assert conditions(job, [path])[-2] == [], "no graph is compiled for it"


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
        (old, {}, "does not tell what its files were"),
    ],
    ids=["cut", "missing", "motion", "loop", "rate", "kind", "old"],
)
def test_what_will_not_do_is_made_anew_and_said(copied, model, change, settings, why):
    path, folder = copied
    change(folder)
    kinds, (said,) = what(begun(model, path, folder, skip_done=True, **settings))
    assert why in said and kinds == {Skipped: 0, Started: 1, Written: 0}


@pytest.fixture
def own_model(untrained, tmp_path):
    """Function -> the model of a config of one's own that starts from another file, with a LoRA of PEFT's on it."""
    (tmp_path / "under.yaml").write_text(f"base: {CONFIG}\n")
    (tmp_path / "own.yaml").write_text("base: under.yaml\n")
    shutil.copyfile(untrained, tmp_path / "own.safetensors")
    (tmp_path / "lora").mkdir()
    layer, (rows, columns) = next(
        (name[: -len(".weight")], array.shape) for name, array in load_file(untrained).items() if "attn1.to_q.w" in name
    )
    layer = "base_model.model." + layer[len("model.diffusion_model.") :]
    pair = {f"{layer}.lora_A.weight": np.ones((2, columns)), f"{layer}.lora_B.weight": np.ones((rows, 2))}
    save_file({name: a.astype(np.float32) for name, a in pair.items()}, tmp_path / "lora/adapter_model.safetensors")
    (tmp_path / "lora/adapter_config.json").write_text('{"r": 2, "lora_alpha": 2}')
    names = "own.yaml", "own.safetensors", "lora"
    return lambda: Model(ModelSettings(*(tmp_path / name for name in names), device_target="CPU", mode=1))


def with_other_heads(folder):
    """What no shape of the weights tells, in a file that has the time that it had."""
    before = (folder / "under.yaml").stat()
    (folder / "under.yaml").write_text(f"base: {CONFIG}\nmodel: {{clip: {{head_width: 8}}}}\n")
    os.utime(folder / "under.yaml", ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path):
    """Another file of the same size, made earlier than the first results were."""
    if path.suffix == ".json":
        path.write_text('{"r": 2, "lora_alpha": 4}')
    else:
        save_file({name: array + 1 for name, array in load_file(path).items()}, path)
    os.utime(path, (1, 1))


def pretend(model, folder):
    """Leave in folder/out what a run of this model would of folder/sea.png, but for what the video shows."""
    picture(folder / "sea.png", 90)
    job = Job(model, VideoSettings(SHORT, output_dir=folder / "out"))
    source = job.plan(folder / "sea.png")
    files = {"video": folder / "out/sea_000.mp4", "image": folder / "out/sea_000_image.png"}
    files["video"].write_bytes(b"frames")
    write_png(source.image, files["image"])
    record = {"video": "sea_000.mp4", **job.told(source, job.options)}
    write_json({**record, "files": {what: fingerprint(path) for what, path in files.items()}}, job_file(folder))


def job_file(folder):
    return folder / "out/sea_000.json"


def look(model, folder):
    """(the video that is there or None, why what is there will not do or None)."""
    job = Job(model, VideoSettings(SHORT, output_dir=folder / "out", skip_done=True))
    ((_, _, there, why),) = job.look(job.plan(folder / "sea.png"))
    return there, why


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (with_other_heads, "clip.head_width was 16 and is 8"),
        (lambda folder: replaced(folder / "own.safetensors"), "own.safetensors is another file than it was"),
        (lambda folder: replaced(folder / "lora/adapter_model.safetensors"), "adapter_model.safetensors is another"),
        (lambda folder: replaced(folder / "lora/adapter_config.json"), "adapter_config.json is another file than it"),
    ],
    ids=["config", "weights", "delta", "alpha"],
)
def test_another_model_under_the_same_names(own_model, tmp_path, change, expected):
    model = own_model()
    pretend(model, tmp_path)
    assert look(model, tmp_path) == (tmp_path / "out/sea_000.mp4", None)
    change(tmp_path)
    there, why = look(own_model(), tmp_path)
    assert there is None and expected in why


def test_a_copy_of_the_same_weights_is_the_same_unless_it_is_newer(own_model, tmp_path):
    """Each server may have one of its own."""
    pretend(own_model(), tmp_path)
    for time, is_there in ((1, True), (job_file(tmp_path).stat().st_mtime + 1, False)):
        os.utime(tmp_path / "own.safetensors", (time, time))
        assert (look(own_model(), tmp_path)[0] is not None) == is_there


def test_weights_that_were_replaced_while_a_run_had_the_old_ones(own_model, tmp_path):
    model = own_model()
    tensors = load_file(tmp_path / "own.safetensors")
    save_file({name: array + 1 for name, array in tensors.items()}, tmp_path / "new")
    os.replace(tmp_path / "new", tmp_path / "own.safetensors")
    pretend(model, tmp_path)
    assert "own.safetensors is another file than it was" in look(own_model(), tmp_path)[1]


@pytest.mark.parametrize("name", ["under.yaml", "own.yaml", "own.safetensors", "lora/adapter_config.json"])
def test_older_results_do_not_tell_which_files_there_were_and_must_be_newer(own_model, tmp_path, name):
    model = own_model()
    pretend(model, tmp_path)
    told = json.loads(job_file(tmp_path).read_text())
    older = {key: told[key] for key in told if key not in ("networks", "weights")}
    job_file(tmp_path).write_text(json.dumps(older))
    assert look(model, tmp_path)[1] is None
    later = job_file(tmp_path).stat().st_mtime + 1
    os.utime(tmp_path / name, (later, later))
    assert f"{name} was written later" in look(model, tmp_path)[1]


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


# What decides the result, and what compiled graphs depend on, where it is not both; what says nothing is in neither.
RESULT_ALONE = {
    *("config", "checkpoint", "delta", "base", "use_ema", "seed", "fps", "motion_bucket_id", "noise_aug_strength"),
    *("height", "width", "output_fps", "watermark", "end_image", "segment_motion", "segment_fps"),
}
GRAPHS_ALONE = {"device_target", "mode", "low_memory", "guidance_devices", "batch"}
NEITHER = {"memory_budget", "sampling", "num_videos", "output_dir", "output_type", "memory_check", "skip_done"}
# Where the other value of an option makes sense.
AT = {"overlap": {"segments": 2}, "segment_motion": {"segments": 2}, "segment_fps": {"segments": 2}}
FILES = {"config": Path("other.yaml"), "segment_motion": "1,2", "segment_fps": "3,4", "sampling": {"fps": 9.0}}


def other(kind, field, value):
    """Another value of an option."""
    if field.name in FILES:
        return FILES[field.name]
    known, types = about(field), str(field.type).split(" | ")
    if known.choices:
        return next(choice for choice in known.choices if choice != value)
    if types[0] in ("bool", "int", "float"):
        return not value if types[0] == "bool" else max(known.least, 128) if value is None else value + 1
    return "other"


def told(model, settings, options, kind=Job):
    """What the JSON file would tell, of a job that is not made: no file is looked at."""
    job = object.__new__(kind)
    job.model, job.settings, job.options, job.command, job.overlap = model, settings, options, None, settings.overlap
    size = (settings.height or 64, settings.width or 64, 3)
    return json.loads(json.dumps(job.told(Picture(Path("sea.png"), np.zeros(size), ""), options), default=str))


def with_settings(model, settings):
    model = copy.copy(model)
    model.settings = settings
    networks = SimpleNamespace(model={"unet": {"model_channels": 32}})
    model.pipeline = SimpleNamespace(deltas=SimpleNamespace(record=lambda: settings.delta), config=networks)
    return model


@pytest.fixture
def ours(untrained):
    """(model, its settings, a job's, the options)."""
    settings = ModelSettings(CONFIG, untrained, device_target="CPU", mode=1)
    model = object.__new__(Model)
    model.attention_scores, model.files = 1, {}
    options = Options(3, 2, 1.0, 2.5, 7.0, 127.0, 0.02, 2)
    return with_settings(model, settings), settings, VideoSettings(output_dir="out"), options


@pytest.mark.parametrize("kind", [ModelSettings, VideoSettings, Options])
def test_every_option_counts_but_those_that_say_otherwise(ours, kind):
    model, of_model, of_video, options = ours
    for field in fields(kind):
        video = replace(of_video, **AT.get(field.name, {}))
        mine = {ModelSettings: of_model, VideoSettings: video, Options: options}
        before = told(model, video, options)
        mine[kind] = replace(mine[kind], **{field.name: other(kind, field, getattr(mine[kind], field.name))})
        after = told(with_settings(model, mine[ModelSettings]), mine[VideoSettings], mine[Options])
        changed = {name for name in after if after[name] != before[name]}
        here, result, graphs = field.name, bool(changed - done._INDIFFERENT), bool(changed - INDIFFERENT)
        assert changed or here in NEITHER | {"device_target"}, f"{here} is not recorded"  # the device in use is
        assert result == (here not in NEITHER | GRAPHS_ALONE), here
        assert graphs == (here not in NEITHER | RESULT_ALONE | {"device_target"}), here
        assert bool(done._other_settings(after, before)) == result, here


def test_an_option_that_is_new_counts_and_is_as_it_was_by_default_in_older_files(ours, monkeypatch):
    @dataclass(frozen=True)
    class More(VideoSettings):
        another: "int" = option("an option of a later program", 1)

    monkeypatch.setattr(done, "_KINDS", (ModelSettings, More, Options))
    model, _, video, options = ours
    older = told(model, video, options)
    assert "another" not in older
    for value, why in ((1, None), (2, "another was 1 and is 2")):
        assert done._other_settings(told(model, More(output_dir="out", another=value), options), older) == why


def test_results_of_0_2_0_are_known(copied, model):
    """Its files told these names; no option that has come since is among them."""
    path, folder = copied
    names = {
        *("video", "config", "checkpoint", "base", "use_ema", "delta", "amp_level", "dtype", "fast_float32", "mode"),
        *("low_memory", "guidance_devices", "attention_scores", "device_target", "versions", "num_frames"),
        *("sampling_steps", "min_guidance", "max_guidance", "fps", "motion_bucket_id", "noise_aug_strength"),
        *("decode_chunk_size", "seed", "schedule", "sampler", "guidance_sigma_min", "guidance_sigma_max"),
        *("guidance_shape", "cache_interval", "decode_tile", "encode_tile", "output_fps", "watermark", "command"),
        *("loop", "end_image", "segments", "overlap", "segment_motion", "segment_fps", "batch", "height", "width"),
        *("image", "crop", "frames", "seconds", "peak_memory_bytes", "files"),
    }
    for about_it in folder.glob("*.json"):
        record = json.loads(about_it.read_text())
        about_it.write_text(json.dumps({name: record[name] for name in names}))
    assert what(made(model, path, folder, num_videos=2, skip_done=True))[0][Skipped] == 2
