"""Two devices for one video, as threads; real ones in tests/test_many_devices.py. What cannot work is refused."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import image_to_video
from gm import memory
from gm.diffusion.conditioning import Conditioning
from gm.diffusion.guidance import guided, linear_scales
from gm.errors import EndsAll, UserError
from gm.job import Job
from gm.loaded import Model
from gm.ops import parallel
from gm.ops.pair import Pair
from gm.options import ModelSettings, VideoSettings
from tests.stand_ins import denoiser_of
from tests.together import together
from tests.untrained import CONFIG


@pytest.fixture
def pair(monkeypatch):
    """Two `Pair`s, for a thread each, whose sum is that of both."""
    barrier, rows, ranks = threading.Barrier(2, timeout=20), [None, None], threading.local()

    def total(array):
        rows[ranks.own] = array
        barrier.wait()
        found = rows[0] + rows[1]
        barrier.wait()
        return found

    monkeypatch.setattr(parallel, "init", lambda: None)
    monkeypatch.setattr(parallel, "total", total)

    def make(rank):
        ranks.own = rank
        monkeypatch.setattr(parallel, "rank", lambda: rank)
        return Pair()

    return make


def on_both(function, pair):
    """[what function(pair) gave or raised on each of two devices]."""
    lock = threading.Lock()

    def run(rank):
        with lock:
            own = pair(rank)
        return function(own)

    return together(lambda: run(0), lambda: run(1))


def test_each_device_computes_one_half_and_both_get_the_result_of_one(pair):
    random = np.random.default_rng(0)
    conditioning = Conditioning(*(random.standard_normal((3, 4, 2, 2)).astype(np.float32) for _ in range(3)))
    x, scales = random.standard_normal((3, 4, 2, 2)).astype(np.float32), linear_scales(1.0, 3.0, 3)
    seen = {0: [], 1: []}

    def denoise(x, sigma, given):
        return np.tanh(x * given.concat + given.vector) + sigma.reshape(-1, 1, 1, 1)

    def run(own):
        def watched(x, sigma, given):
            seen[own.rank].append((len(x), bool(given.concat.any())))
            return denoise(x, sigma, given)

        one = guided(denoiser_of(watched), conditioning, scales, 3, 1.0, 10.0, pair=own)
        return [one(x, 5.0), one(x, 50.0)]

    first, second = on_both(run, pair)
    alone = guided(denoiser_of(denoise), conditioning, scales, 3, 1.0, 10.0)
    for found in (first, second):
        np.testing.assert_array_equal(found[0], alone(x, 5.0))
        np.testing.assert_array_equal(found[1], alone(x, 50.0))  # without guidance
    assert seen == {0: [(3, False), (3, True)], 1: [(3, True), (3, True)]}


@pytest.mark.parametrize(("second", "calls"), [("b.png 23", 1), ("a.png 24", 1), ("a.png 23", 2)])
def test_devices_that_are_not_at_the_same_step_say_so(pair, second, calls):
    def run(own):
        own.begin("a.png 23" if own.rank == 0 else second)
        own._place += (calls - 1) * own.rank
        return own.both(np.ones(3, np.float32))

    assert all("are not at the same step" in str(found) for found in on_both(run, pair))


def main(*options):
    return image_to_video.main(["--image=a.png", "--guidance_devices=2", *options])


def launched(monkeypatch, rank=0, size=2, role="MS_WORKER"):
    for name, value in {"MS_ROLE": role, "MS_WORKER_NUM": size, "MS_NODE_ID": rank, "DEVICE_ID": rank}.items():
        monkeypatch.setenv(name, str(value))


def test_without_two_workers_it_is_refused(monkeypatch):
    with pytest.raises(UserError, match="--guidance_devices=2 needs two processes: msrun --worker_num=2"):
        main()
    for size, words in ((1, "there is 1"), (4, "there are 4")):
        launched(monkeypatch, size=size)
        with pytest.raises(UserError, match=f"needs two workers of msrun, {words}"):
            main()
    with pytest.raises(UserError, match="guidance_devices"):
        main("--guidance_devices=3")


def test_the_first_device_alone_says_what_is_wrong_with_the_options(monkeypatch):
    launched(monkeypatch, size=4, rank=3)
    assert main() == 0
    launched(monkeypatch, role="MS_SCHED")
    assert main("--no_such_option") == 0
    assert image_to_video.main(["--image=a.png"]) == 0, "pictures that are shared out need no scheduler"


def model(untrained):
    return Model(ModelSettings(CONFIG, untrained, device_target="CPU", mode=1, guidance_devices=2))


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        ({"min_guidance": 1.0, "max_guidance": 1.0}, "no guidance to be shared"),
        ({"cache_interval": 2, "guidance_sigma_max": 9.0}, "DeepCache.*--SVD.guidance_sigma_max"),
    ],
)
def test_what_cannot_work(tmp_path, untrained, sampling, words):
    with pytest.raises(UserError, match=words):
        Job(model(untrained), VideoSettings({"num_frames": 3, **sampling}, output_dir=tmp_path))


def test_half_of_it_takes_less_memory(tmp_path, untrained):
    settings = VideoSettings({"num_frames": 100}, output_dir=tmp_path, output_type="latents")
    usual = Model(ModelSettings(CONFIG, untrained, device_target="CPU", mode=1))
    one, two = (memory.peak(Job(each, settings).memory((256, 256))) for each in (usual, model(untrained)))
    low = memory.peak(Job(usual, settings).memory((256, 256), max_guidance=1.0))
    assert one > two == low


def test_the_second_device_writes_nothing_and_a_fault_ends_the_run(tmp_path, untrained, monkeypatch):
    found = model(untrained)
    found.pair = SimpleNamespace(rank=1, begin=lambda what: None, meet_in=lambda place: None)
    sampling = {"num_frames": 2, "sampling_steps": 1}
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    job = Job(found, VideoSettings(sampling, output_dir=tmp_path / "out"))
    events = list(job.run(job.plan(tmp_path / "a.png")))
    assert events and list((tmp_path / "out").iterdir()) == [] and "decoder" not in found.pipeline.components

    def fail(*_, **more):
        raise UserError("no more")

    monkeypatch.setattr(found.pipeline, "condition", fail)
    with pytest.raises(EndsAll, match="a.png: no more\nThe other device would wait"):
        list(job.run(job.plan(tmp_path / "a.png")))
