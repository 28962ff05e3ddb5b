"""The options of image_to_video.py: the fields of its settings in groups, and the parser that is made of them.

An option may have several names. The first is ours; the others are the original script's (simple_video_sample.py) and
do the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, NoReturn

from gm import places
from gm.checkpoint.published import TINY, VERSIONS
from gm.errors import UserError
from gm.option_names import answer_unknown
from gm.options import HEADLINES, ModelSettings, Options, VideoSettings, motion, speed, usual, weights
from gm.settings import MISSING, Settings, about, options_of, types_of

_WIDEST = 55  # characters of choices that go beside an option's name


@dataclass(frozen=True)
class Command(Settings):
    """What the command line asks for besides `VideoSettings`, `Options`, `ModelSettings`; other words for them."""

    image: str | None = usual(
        "a picture (jpg, png, webp, bmp, tif, gif, avif; heic with pillow-heif), or a folder of them, done in the "
        "order of their names",
        None,
        also="--input_path",
    )
    latents_in: str | None = usual(
        "in place of --image: a .npy file of --output_type=latents, to be decoded, or with --segments continued", None
    )
    version: str | None = usual(
        f"the model: {', '.join(VERSIONS)}; without it {TINY}, a small one that comes with the program",
        None,
        choices=VERSIONS,
    )
    dry_run: bool = usual("check everything, print the settings and the memory of each picture, stop", False)
    checkpoints_dir: str | None = weights(
        "folder of weights, into which svd_tools/download.py puts them; by default SVD_CHECKPOINTS of the environment, "
        "else checkpoints",
        None,
    )
    fps_id: float | None = motion("SVD.fps as the original counts it: one less (6)", None)
    compile_cache: str | None = speed(
        "where graph mode keeps compiled networks for the next run with the same settings and sizes: a folder, or off "
        "(by default, on CPUs, ~/.cache/svd_mindspore/graphs)",
        None,
    )


def switch(text: str) -> bool:
    """True or False from true, false, yes, no, 1, 0."""
    found = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower())
    if found is None:
        raise UserError(f"{text!r}: give true or false")
    return found


def _parsed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` for argparse, which names the option in front of what is wrong with its value."""

    def typed(text: str) -> Any:
        try:
            return parse(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return typed


class Option(NamedTuple):
    """name: the attribute in what the parser returns. names: on the command line, ours first. help: a phrase. default:
    what the parser returns where nothing is given; shown: what the help says of it."""

    name: str
    names: tuple[str, ...]
    help: str
    type: Any
    default: Any
    choices: tuple[Any, ...] | None
    shown: Any


def _options(group: str) -> Iterator[Option]:
    for kind in (Command, Options, VideoSettings, ModelSettings):
        for name, field in options_of(kind):
            known, expected = about(field), types_of(kind)[name][0]
            if known.group != group:
                continue
            names = ((known.called or kind.called).format(name), *known.also.split())
            parse = known.parse or (switch if expected is bool else None)
            typed: Any = _parsed(parse) if parse else expected if expected in (int, float) else str
            shown = None if field.default is MISSING else field.default
            default = None if kind is Options else shown  # of which the model's config has the last word
            yield Option(name, names, known.help, typed, default, known.choices or None, shown)


GROUPS = {group: list(_options(group)) for group in HEADLINES}
OPTIONS = {each.name: each for options in GROUPS.values() for each in options}


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Every name of an option once, its choices or a short word for its value behind the first."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        first, *others = action.option_strings
        return ", ".join([f"{first} {action.metavar or ''}".rstrip(), *others])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise UserError(answer_unknown(unknown, list(self._option_string_actions)))
        for name, value in vars(arguments).items():
            if value == "":
                raise UserError(f"{OPTIONS[name].names[0]} is empty, as by a variable of the shell that is not set")
        if arguments.image is None and arguments.latents_in is None:
            raise UserError("which picture? Give --image; see --help")
        return arguments


def add_option(parser: argparse._ActionsContainer, name: str) -> None:
    """One of `OPTIONS` as an option of any parser; where its choices are short they stand for its value in the help."""
    known = OPTIONS[name]
    choices = ",".join(map(str, known.choices or ()))
    value = f"{{{choices}}}" if 0 < len(choices) <= _WIDEST else {int: "N", float: "X"}.get(known.type, "VALUE")
    more: dict[str, Any] = {"metavar": value, "choices": known.choices}
    if isinstance(known.default, bool):  # nothing need follow it
        more = {"nargs": "?", "const": True}
    shown = "" if known.shown is None or known.shown is False else f" ({known.shown})"
    parser.add_argument(
        *known.names, help=known.help + shown, type=known.type, default=known.default, dest=name, **more
    )


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The parser of all options. In what it returns the last part of an option's first name is the attribute; None is:
    what the config says. Faults are UserErrors, a foreign or mistyped option with the name that it has here."""
    parser = _Parser(
        prog=places.command("image_to_video.py"),
        usage="%(prog)s --image=PICTURE [--version=VERSION] [options]",
        description=description and places.spelled(description),
        formatter_class=_Formatter,
        add_help=False,
        allow_abbrev=False,
    )
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for each in options:
            add_option(group, each.name)
    group.add_argument("--help", "-h", action="help", help="print this and stop")
    return parser
