"""How the clips of a run are read."""

import pytest

from gm.training import data


@pytest.mark.parametrize("cores, workers, processes, threads", [
    (2, 2, 1, 1), (16, 2, 1, 8), (16, 4, 2, 2), (4, 8, 1, 1), (192, 2, 8, 8),
])
def test_readers_share_the_cores_that_the_loader_leaves(monkeypatch, cores, workers, processes, threads):
    monkeypatch.setattr(data.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(data.parallel, "size", lambda: processes)
    assert data._decoding_threads(workers) == threads
