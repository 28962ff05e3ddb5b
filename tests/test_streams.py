"""Programs whose output nobody can take."""

import os
import subprocess
import sys

import pytest

from tests.untrained import CONFIG

PROGRAM = """
import sys
from gm.errors import UserError, run_cli

def main(argv):
    for i in range(20000):
        print("a line of some length", i)
    print("to stderr", file=sys.stderr)
    with open(sys.argv[1], "w") as file:
        print(file.fileno(), file=file)
    if len(sys.argv) > 2:
        raise UserError(sys.argv[2])

run_cli(main)
"""


def run(tmp_path, redirection, *arguments):
    """(exit status of the program, stderr) under bash with a redirection or pipe behind the command."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = f'{sys.executable} program.py done "$@" {redirection}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", command, "bash", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CONFIG.parent.parent)},
    )
    assert "Traceback" not in done.stderr + done.stdout and (tmp_path / "done").exists()
    assert int((tmp_path / "done").read_text()) > 2, "a file of the program's own became stdout or stderr"
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "redirection",
    ["| head -n 1", ">&-", "</dev/null >&- 2>&-", "2>&-", "<&- >&- 2>&-", "2>&1 >&- | true", "2>/dev/full"],
)
def test_nothing_stops_the_work(tmp_path, redirection):
    status, errors = run(tmp_path, redirection)
    assert status == 0 and errors in ("to stderr\n", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_output_that_was_asked_for_and_is_lost_is_told(tmp_path):
    status, errors = run(tmp_path, ">/dev/full")
    assert status == 1
    assert errors == "to stderr\nerror: not all that was to be printed could be written: No space left on device\n"


def test_a_fault_keeps_its_status(tmp_path):
    assert run(tmp_path, "2>&-", "a fault")[0] == 1
    assert run(tmp_path, "| true", "a fault") == (1, "to stderr\nerror: a fault\n")


def test_a_folder_that_is_gone_is_told(tmp_path):
    (tmp_path / "program.py").write_text("from gm.errors import run_cli\nimport os\nrun_cli(lambda argv: os.getcwd())")
    command = f"mkdir gone; cd gone; rmdir ../gone; {sys.executable} {tmp_path}/program.py"
    env = {**os.environ, "PYTHONPATH": str(CONFIG.parent.parent)}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the folder that this was started in cannot be found"), done.stderr
