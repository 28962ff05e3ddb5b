"""A program in an environment without its libraries says so in words, with what to do."""

import subprocess
import sys

import pytest

from gm import missing
from tests.untrained import CONFIG

ROOT = CONFIG.parent.parent


@pytest.mark.parametrize("program", ["image_to_video.py", "train.py"])
def test_a_program_without_its_libraries_says_what_to_do(program):
    command = [sys.executable, "-S", program, "--image=assets/demo.png"]  # -S: without site-packages
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={})
    assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr
    assert f"is not installed for {sys.executable}" in done.stderr
    assert "source .venv/bin/activate" in done.stderr and "pip install -r requirements.txt" in done.stderr


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("x", name="gm.nothing"), ImportError("x", name="av"), KeyError("x")]
)
def test_other_faults_keep_their_traceback(error, capsys):
    missing.hook(type(error), error, None)
    assert type(error).__name__ in capsys.readouterr().err


def test_a_part_of_a_library_is_named_by_its_package(capsys):
    missing.hook(ModuleNotFoundError, ModuleNotFoundError("x", name="yaml.nothing"), None)
    assert "error: 'yaml' is not installed" in capsys.readouterr().err
