from __future__ import annotations

from pathlib import Path

import pytest

from gm.cli import run
from gm.errors import UserError


def test_many_bad_pictures_are_not_all_told_twice(capsys):
    def fail(path):
        raise UserError(f"{path} is wrong")

    with pytest.raises(UserError, match="25 of 25 pictures failed") as failed:
        run.for_each([Path(f"{k}.png") for k in range(25)], fail, lambda: "done")
    lines = str(failed.value).splitlines()
    assert len(lines) == 22 and lines[1].strip() == "0.png is wrong"
    assert lines[-1].strip() == "… and 5 more, each told above"
    assert capsys.readouterr().err.count("is wrong") == 25
