"""The help of the tools in svd_tools."""

from __future__ import annotations

import pytest

from gm import places
from gm.parser import Parser
from svd_tools import convert

TEXT = """What it does, in more words than fit into a line of a terminal that has 80 columns.

python svd_tools/convert.py a.safetensors --a_long_option=a_long_value --another_long_option=another
python svd_tools/convert.py b.safetensors

The rest."""


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_commands_stand_on_lines_of_their_own_as_they_are_to_be_typed():
    lines = Parser(TEXT).format_help().splitlines()
    assert "  python svd_tools/convert.py b.safetensors" in lines
    assert "  " + TEXT.splitlines()[2] in lines  # longer than the terminal is wide: copied whole all the same
    assert (
        "The rest." in lines and "What it does, in more words than fit into a line of a terminal that has 80" in lines
    )


def test_an_installation_reads_its_own_commands(monkeypatch):
    monkeypatch.setattr(places, "INSTALLED", True)
    assert "  svd-convert b.safetensors" in Parser(TEXT).format_help().splitlines()


def test_only_defaults_that_say_something_are_shown():
    parser = Parser(TEXT)
    parser.add_argument("--json", help="a file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace it")
    parser.add_argument("--workers", type=int, default=2, help="at a time")
    text = parser.format_help()
    assert "null" not in text and "False" not in text and "at a time (type: int, default: 2)" in text


def test_a_tool_has_it(capsys):
    with pytest.raises(SystemExit):
        convert.main(["--help"])
    command = "python svd_tools/convert.py --pt_weights_file svd.safetensors --config configs/svd.yaml"
    assert f"  {command} --out_dir checkpoints" in capsys.readouterr().out.splitlines()
