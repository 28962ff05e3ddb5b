"""How the clips of a run are read."""

from pathlib import Path

import pytest

from gm.data.metadata import Metadata
from gm.data.rows import Clip
from gm.errors import UserError
from gm.training import data


@pytest.mark.parametrize(
    "cores, workers, processes, threads",
    [
        (2, 2, 1, 1),
        (16, 2, 1, 8),
        (16, 4, 2, 2),
        (4, 8, 1, 1),
        (192, 2, 8, 8),
    ],
)
def test_readers_share_the_cores_that_the_loader_leaves(monkeypatch, cores, workers, processes, threads):
    monkeypatch.setattr(data.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(data.parallel, "size", lambda: processes)
    assert data._decoding_threads(workers) == threads


def test_scenes_of_one_file_are_held_out_together():
    clips = [Clip(Path(f"/{line % 7}.mp4"), 20, 1, None, line, 20 * line, True) for line in range(40)]
    for share in (0.1, 0.3, 0.9):
        rest, held = data._split(Metadata(clips, []), 3, share)
        files = [{clip.path for clip in part.clips} for part in (rest, held)]
        assert not files[0] & files[1] and len(files[0] | files[1]) == 7
        assert len(files[1]) == min(max(1, round(7 * share)), 6)
        assert len(rest.clips) + len(held.clips) == 40
    with pytest.raises(UserError, match="all clips are of one file"):
        data._split(Metadata(clips[::7], []), 3, 0.5)


def test_a_validation_list_with_files_that_are_trained_on_is_told(caplog):
    def listed(*names):
        return Metadata([Clip(Path(f"/{name}.mp4"), 20, 1, None, line) for line, name in enumerate(names)], [])

    data._warn_of_shared(listed("a", "b"), listed("c", "d"))
    assert not caplog.text
    data._warn_of_shared(listed("a", "b", "c"), listed("b", "d", "c"))
    assert "2 of its 3 clips are of files that are trained on too, such as /b.mp4" in caplog.text
