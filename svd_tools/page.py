"""docs/devices.md: its tables are made by programs, each between two marks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gm import places
from gm.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

PAGE = places.ROOT / "docs" / "devices.md"


def read(name: str, page: Path = PAGE) -> tuple[str, str, str]:
    """(text before the table `name`, the table, text behind it). UserError where the marks are missing."""
    begin, end = _marks(name)
    if not page.exists():
        raise UserError(f"{page} is not there: the tables are kept in a checkout of the project")
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    shown, closed, after = rest.partition(end)
    if not found or not closed:
        raise UserError(f"{page}: the lines {begin} and {end} are not there")
    return before, shown.strip(), after


def write(name: str, text: str, page: Path = PAGE) -> None:
    """Put a table into its place."""
    before, _, after = read(name, page)
    begin, end = _marks(name)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
