"""The numbers of metrics.jsonl."""

from __future__ import annotations

import json

import pytest

from gm.training.log import BUCKETS, RunFolder, Window, bucket_sums


def test_losses_go_to_the_bucket_of_their_noise_level():
    """A level on an edge belongs to the bucket above it."""
    sums, counts = bucket_sums([1.0, 2.0, 4.0, 8.0, 16.0], [0.2, 0.3, 0.9, 10.0, 50.0])
    assert dict(zip(BUCKETS, sums)) == {"0-0.3": 1, "0.3-1": 6, "1-3": 0, "3-10": 0, "10-30": 8, "30-inf": 16}
    assert counts.tolist() == [1, 2, 0, 0, 1, 1]


def test_a_line_is_the_mean_over_the_clips_of_its_steps():
    window = Window()
    for losses, sigmas in (([1.0, 2.0, 3.0], [0.1, 0.1, 5.0]), ([6.0], [5.0])):
        window.add(*bucket_sums(losses, sigmas), sigmas)
    found = window.numbers()
    assert found["loss"] == 3.0 and found["loss_by_sigma"] == {"0-0.3": 1.5, "3-10": 4.5}
    assert found["sigma"] == [0.1, 0.1, 5.0, 5.0]
    window.clear()
    window.add(*bucket_sums([7.0], [2.0]), [2.0])
    assert window.numbers()["loss"] == 7.0 and window.numbers()["sigma"] == [2.0]


@pytest.mark.parametrize("step, kept", [(0, 0), (2, 2), (9, 3)])
def test_lines_of_steps_that_come_again_are_cut(tmp_path, step, kept):
    folder = RunFolder(tmp_path)
    lines = [json.dumps({"step": n}) for n in (1, 2, 3)]
    folder.metrics.write_text("\n".join([*lines, '{"step": 1, "lo', "[]", "{}"]))
    folder.cut_metrics(step)
    assert folder.metrics.read_text().splitlines() == lines[:kept]
