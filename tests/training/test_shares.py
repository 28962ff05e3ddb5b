"""Devices that share a work out, as threads with notes of their own."""

from __future__ import annotations

import functools
import json
import time

import pytest

from gm.errors import UserError
from gm.training import shares
from gm.training.shares import OthersFault, Share
from tests.together import together


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(shares, "_NOTE", 0.0)
    monkeypatch.setattr(shares, "_LOOK", 0.01)


def timed(*functions):
    """What each function, in a thread of its own, returned or raised, and after how many seconds."""
    start = time.monotonic()

    def with_time(function):
        try:
            result = function()
        except UserError as error:
            result = error
        return result, time.monotonic() - start

    return together(*(functools.partial(with_time, function) for function in functions))


def worker(place, rank, count, seconds=0.0, size=2):
    def work():
        share = Share(place, rank, size, count)
        for _ in range(count):
            time.sleep(seconds)
            share.advance()
        share.wait()

    return work


def test_nobody_goes_on_before_the_slowest_is_done(tmp_path):
    (first, waited), (second, worked) = timed(worker(tmp_path, 0, 1), worker(tmp_path, 1, 5, 0.1))
    assert first is second is None and waited > 0.5 and worked > 0.5
    done = {path.name: json.loads(path.read_text())["done"] for path in tmp_path.iterdir()}
    assert done == {"0.json": 1, "1.json": 5}


def test_one_that_has_not_begun_is_waited_for(tmp_path):
    def late():
        time.sleep(0.4)
        worker(tmp_path, 1, 0)()

    (first, waited), (second, _) = timed(worker(tmp_path, 0, 0), late)
    assert first is second is None and waited > 0.4


def test_one_that_fails_ends_the_others_at_once_by_name(tmp_path):
    def fail():
        share = Share(tmp_path, 1, 3, 9)
        share.advance()
        share.tell("the weights are damaged")

    encoding, _, waiting = timed(worker(tmp_path, 0, 100, 0.1, 3), fail, worker(tmp_path, 2, 0, size=3))
    for result, seconds in (encoding, waiting):
        assert isinstance(result, OthersFault) and str(result) == "device 1 of 3 failed: the weights are damaged"
        assert seconds < 3, "not after the 10 seconds of the first one's share"


def test_one_that_is_silent_is_taken_for_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(shares, "_SILENCE", 0.3)
    Share(tmp_path, 1, 2, 7).tell()
    ((result, seconds),) = timed(worker(tmp_path, 0, 0))
    assert "device 1 of 2 has told nothing for" in str(result) and 0.3 < seconds < 5
    ((result, _),) = timed(worker(tmp_path, 0, 0, size=3))
    assert isinstance(result, OthersFault), "one that never told anything"


def test_one_that_is_done_may_be_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(shares, "_SILENCE", 0.2)
    results = timed(worker(tmp_path, 0, 0), worker(tmp_path, 1, 8, 0.1))
    assert [result for result, _ in results] == [None, None]


def test_one_device_writes_nothing(tmp_path):
    with shares.shares(tmp_path, 2) as share:
        share.advance()
    assert list(tmp_path.iterdir()) == []
