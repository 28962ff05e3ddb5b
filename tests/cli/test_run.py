from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import image_to_video
from gm import compile_cache
from gm.cli import run
from gm.errors import UserError
from gm.inference_options import make_parser
from gm.options import VideoSettings


def test_many_bad_pictures_are_not_all_told_twice(capsys):
    def fail(path):
        raise UserError(f"{path} is wrong")

    with pytest.raises(UserError, match="25 of 25 pictures failed") as failed:
        run.for_each([Path(f"{k}.png") for k in range(25)], fail, lambda: "done")
    lines = str(failed.value).splitlines()
    assert len(lines) == 22 and lines[1].strip() == "0.png is wrong"
    assert lines[-1].strip() == "… and 5 more, each told above"
    assert capsys.readouterr().err.count("is wrong") == 25


@pytest.mark.parametrize(
    ("options", "member", "words"),
    [
        (["--compile_cache=graphs"], True, "several devices need --height and --width"),
        (["--compile_cache=graphs", "--guidance_devices=2"], None, "not with --guidance_devices"),
        ([], True, None),
    ],
)
def test_where_no_compile_cache_can_be_used_who_asked_for_it_is_told(options, member, words, capsys, monkeypatch):
    monkeypatch.setattr(compile_cache, "_used", [])
    monkeypatch.delenv(compile_cache._VARIABLE, raising=False)
    job = SimpleNamespace(record=lambda: {"device_target": "CPU", "mode": 0}, settings=VideoSettings())
    arguments = make_parser("").parse_args(["--image=a.png", *options])
    with image_to_video.kept_graphs(arguments, job, [], member, True) as found:
        assert found is False
    printed = capsys.readouterr().err
    assert words in printed if words else not printed
