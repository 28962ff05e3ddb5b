"""The queue of the page: order, places, cancelling, crashes, and once the real process with a model."""

import functools
import json
import os
import re
import signal
import sys
import time
import types
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from gm.errors import UserError
from gm.events import Sampling, Started
from gm.options import ModelSettings, VideoSettings
from gm.picture import Picture
from gm.web.messages import Cancel, Load, Make
from gm.web.process import Process
from gm.web.queue import Queue, Ticket
from tests.untrained import CONFIG

ACTING = (sys.executable, "-m", "tests.web.acting")
A, B = ModelSettings("a.yaml", "a"), ModelSettings("b.yaml", "b")
PATIENCE = 120  # seconds, on a machine with other work


@pytest.fixture
def queue():
    found = Queue(functools.partial(Process, ACTING))
    yield found
    found.close()


def make(name, model=A):
    return Make(model, Picture(Path(name), np.zeros((64, 64, 3), np.uint8), ""), (VideoSettings(),))


def wait(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def ended(ticket):
    wait(lambda: ticket.ended is not None)
    return ticket.ended


def steps(ticket):
    return getattr(ticket.event, "done", 0)


def test_requests_are_done_in_their_order_and_know_their_place(queue):
    first, second, third = (queue.submit(make(name)) for name in ("slow", "second", "third"))
    wait(lambda: steps(first) > 1)
    assert [queue.place(ticket) for ticket in (first, second, third)] == [0, 1, 2]
    assert queue.length() == 3
    queue.cancel(second)
    assert ended(second).cancelled and [queue.place(t) for t in (first, second, third)] == [0, None, 1]
    queue.cancel(first)
    assert ended(first).cancelled and steps(first) < 900
    assert ended(third).fault is None and not second.results
    assert third.results[0].written.video == Path("third") and queue.length() == 0


def test_no_more_than_so_many_wait(queue):
    running = queue.submit(make("slow"))
    wait(lambda: steps(running) > 1)
    waiting = [queue.submit(make("next")) for _ in range(20)]
    with pytest.raises(UserError, match="20 requests wait already"):
        queue.submit(make("one too many"))
    queue.cancel(waiting[0])
    waiting.append(queue.submit(make("in its place")))
    for ticket in (*waiting, running):
        queue.cancel(ticket)
    assert ended(running).cancelled


def test_a_request_that_waits_is_given_up_where_its_page_is_away_for_long(queue, monkeypatch):
    clock = [1000.0]  # seconds
    monkeypatch.setattr("gm.web.queue.time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    running, gone, stays, cancelled = (queue.submit(make(name)) for name in ("slow", "gone", "stays", "cancelled"))
    wait(lambda: steps(running) > 1)
    queue.cancel(cancelled)
    for _ in range(11):
        clock[0] += 60
        assert queue.place(stays) == (2 if clock[0] <= 1600 else 1)
    assert "its page was closed for 10 minutes" in ended(gone).fault and not gone.results
    assert running.ended is None, "what is under way is finished, as docs/page.md says"
    clock[0] += 601
    queue.cancel(running)
    assert "its page was closed" in ended(stays).fault
    assert queue.length() == 0


def test_a_page_that_is_loaded_anew_finds_its_request_by_a_key(queue, monkeypatch):
    monkeypatch.setattr("gm.web.queue._MOST_KEPT", 2)
    running, waiting, other = (queue.submit(make(name)) for name in ("slow", "one", "two"))
    wait(lambda: steps(running) > 1)
    for ticket in (running, waiting, other):
        assert queue.find(ticket.key) is ticket
    assert len({ticket.key for ticket in (running, waiting, other)}) == 3 and queue.find("1") is None
    queue.cancel(running)
    assert ended(other).fault is None and ended(waiting).fault is None
    assert queue.find(waiting.key) is waiting and queue.find(other.key) is other
    assert queue.find(running.key) is None, "so many are kept, and no more"


def test_a_request_that_is_done_with_cannot_cancel_the_next(queue):
    done = queue.submit(make("done"))
    ended(done)
    following = queue.submit(make("slow"))
    wait(lambda: steps(following) > 1)
    queue.process.send(Cancel(done.number))
    later = steps(following) + 5
    wait(lambda: steps(following) > later or following.ended)
    assert following.ended is None
    queue.cancel(following)
    assert ended(following).cancelled


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bad", "this cannot be"),
        ("fault", "a fault of the program.*ZeroDivisionError: of the program"),
        ("crash", "killed, as systems do when memory is out"),
    ],
)
def test_what_fails_is_told_and_the_next_request_is_done(queue, name, words):
    assert re.search(words, ended(queue.submit(make(name))).fault)
    following = queue.submit(make("following"))
    assert ended(following).fault is None and len(following.results) == 1


def test_another_model_waits_for_running_work_and_gets_a_process_of_its_own(queue):
    first = queue.submit(make("slow"))
    other = queue.submit(make("other", B))
    wait(lambda: steps(first) > 1)
    process, pid = queue.process, queue.process.pid
    assert queue.model == A and queue.place(other) == 1
    queue.cancel(first)
    assert ended(other).fault is None and queue.model == B
    assert other.results[0].written.record["pid"] != pid and not process.alive()
    again = queue.submit(make("again", B))
    ended(again)
    assert again.results[0].written.record["pid"] == other.results[0].written.record["pid"]


def test_a_process_that_compiled_many_sizes_gives_its_memory_back(queue, monkeypatch):
    monkeypatch.setattr("gm.web.queue._MOST_SIZES", 2)

    def process_of(name):
        ticket = queue.submit(make(name))
        assert ended(ticket).fault is None
        return ticket.results[0].written.record["pid"]

    assert process_of("size") == process_of("one") == process_of("size") != process_of("next")
    assert process_of("size") == process_of("next")


def test_a_process_that_dies_between_two_requests_is_noticed(queue):
    ended(queue.submit(make("first")))
    os.kill(queue.process.pid, signal.SIGKILL)
    wait(lambda: not queue.process.alive())
    following = queue.submit(make("following"))
    assert ended(following).fault is None and following.results


def test_a_program_that_is_not_there_is_told():
    queue = Queue(functools.partial(Process, ("/no/such/program",)))
    try:
        assert "could not be started: No such file" in ended(queue.submit(make("one"))).fault
    finally:
        queue.close()


def test_what_nobody_expected_ends_one_request_and_not_the_queue():
    class Full(Process):
        def send(self, message):
            if isinstance(message, tuple) and message[0] == 1:
                raise MemoryError("for the copy that is sent")
            super().send(message)

    queue = Queue(functools.partial(Full, ACTING))
    try:
        first, following = queue.submit(make("first")), queue.submit(make("following"))
        assert "MemoryError: for the copy" in ended(first).fault
        assert ended(following).fault is None and following.results
    finally:
        queue.close()


def test_seconds_left_follow_the_speed_of_the_steps_so_far(queue):
    ticket = queue.submit(make("slow"))
    assert ticket.seconds_left() is None
    wait(lambda: steps(ticket) >= 20)
    left = ticket.seconds_left()
    assert 0.05 * 900 < left < 5 * 0.05 * 1000
    queue.cancel(ticket)


def test_segments_are_counted_and_each_is_timed_by_itself():
    ticket = Ticket(1, None)
    ticket.receive(Started(Path("x"), 0, 1, 1))
    assert ticket.segment == 0
    for segment in (1, 2):
        for step in range(5):
            ticket.receive(Sampling(step, 9))
            assert ticket.segment == segment and (ticket.seconds_left() is None) == (step < 2)
    ticket.receive(Started(Path("y"), 0, 2, 2))
    assert ticket.segment == 0


def test_the_model_s_own_process_makes_measures_cancels_and_goes_on(tmp_path, untrained):
    model = ModelSettings(CONFIG, untrained, device_target="CPU", mode=1)
    video = VideoSettings({"num_frames": 3, "sampling_steps": 2}, output_dir=tmp_path)
    picture = Picture(tmp_path / "sea.png", np.full((64, 64, 3), 90, np.uint8), "")
    queue = Queue()
    try:
        loading = queue.submit(Load(model, video, (64, 64)))
        assert ended(loading).fault is None and queue.loaded
        stages = queue.ready.basis.stages((64, 64), _options(video))
        assert set(stages) == {"conditioning", "sampling", "decoding"}
        long = VideoSettings({"num_frames": 3, "sampling_steps": 1000}, output_dir=tmp_path)
        cancelled = queue.submit(Make(model, picture, (long,)))
        wait(lambda: cancelled.glimpse is not None)
        queue.cancel(cancelled)
        assert ended(cancelled).cancelled and cancelled.glimpse.shape == (3, 8, 8, 3)
        assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".claim")]
        done = queue.submit(Make(model, picture, (video, video)))
        assert ended(done).fault is None
        assert [result.written.video.name for result in done.results] == ["sea_000.mp4", "sea_001.mp4"]
        assert 0 <= done.results[0].numbers["motion_bucket"] <= 255
        assert json.loads((tmp_path / "sea_000.json").read_text())["command"] == "app.py"
        assert next(imageio_ffmpeg.read_frames(str(tmp_path / "sea_000.mp4")))["codec"] == "h264"
        huge = Make(model, picture._replace(image=np.zeros((8192, 8192, 3), np.uint8)), (video,))
        assert "not enough memory" in ended(queue.submit(huge)).fault and queue.ready is not None
        bad = VideoSettings({"num_frames": 3, "fps": -1}, output_dir=tmp_path)
        assert "fps -1" in ended(queue.submit(Make(model, picture, (bad,)))).fault
    finally:
        queue.close()
    missing = Queue()
    try:
        ticket = missing.submit(make("sea"))
        assert "a.yaml" in ended(ticket).fault and missing.model is None
    finally:
        missing.close()


def _options(video):
    from gm.model_config import load_model_config

    return load_model_config(CONFIG).sampling.options(**video.sampling)
