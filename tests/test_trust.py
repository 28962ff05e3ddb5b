"""What may be loaded as a program: nothing that somebody else could have written."""

import os

import pytest

from gm.trust import fault


@pytest.fixture
def file(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    path = folder / "a.so"
    path.touch(mode=0o600)
    return path


def test_what_is_the_users_alone(file):
    assert fault(file) is None and fault(file.parent) is None


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_can_write(file, mode):
    file.chmod(mode)
    assert f"others can write to {file}" in fault(file)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_can_write(file, mode):
    file.parent.chmod(mode)
    assert f"chmod go-w {file.parent}" in fault(file)
    assert fault(file.parent) is not None


def test_in_a_folder_with_the_sticky_bit_others_cannot_touch_what_is_not_theirs(file):
    file.parent.chmod(0o1777)
    assert fault(file) is None
    assert fault(file.parent) is not None  # but they can put something in


def test_a_link_is_judged_by_what_it_leads_to(file, tmp_path):
    (tmp_path / "link").symlink_to(file)
    assert fault(tmp_path / "link") is None
    file.parent.chmod(0o777)
    assert str(file.parent) in fault(tmp_path / "link")


def test_what_belongs_to_somebody_else(file, monkeypatch):
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    if own == 0:
        assert fault(file) is None  # root may change everything anyway
        os.chown(file, 12345, 12345)
    assert f"{file} belongs to another user" in fault(file)
