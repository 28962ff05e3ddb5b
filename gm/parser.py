"""The parser of the tools: jsonargparse's, with a help that reads as the program's docstring is written."""

from __future__ import annotations

import argparse
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from gm import places


class Paragraphs(argparse.HelpFormatter):
    """A help whose description, a program's docstring, keeps its paragraphs, and commands as they are typed here."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = []
        for paragraph in text.strip().split("\n\n"):
            here = places.spelled(paragraph)
            if paragraph.startswith("python "):
                filled.append("\n".join(f"{indent}  {line}" for line in here.splitlines()))
            else:
                filled.append(super()._fill_text(here, width, indent))
        return "\n\n".join(filled)


class _Formatter(Paragraphs, DefaultHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        """Without the default where there is none, or where it is that nothing is switched on."""
        text = super()._get_help_string(action) or ""
        if action.default is None or action.default is False:
            text = text.replace(", default: %(default)s", "").replace(" (default: %(default)s)", "")
        return text


class Parser(ArgumentParser):
    """jsonargparse's, with the help of this module."""

    def __init__(self, description: str | None, **more: Any) -> None:
        super().__init__(description=description, formatter_class=_Formatter, **more)
