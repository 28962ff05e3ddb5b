"""Graphs that one run compiled, for the next: MindSpore's own cache, made safe.

MindSpore numbers the graphs of a process in the order of their compilation and hands the n-th graph of the folder to
the n-th compilation, whatever it is of: other shapes, other options or another source file below gm/ are not noticed
(seen with 2.8.0: other frames, or a failing Reshape). So every set of conditions gets a folder of its own, named by a
hash of all that decides which graphs there are and in what order, and a folder appears only when a run has ended well.

On CPUs graphs are kept without being asked for, in $XDG_CACHE_HOME/svd_mindspore/graphs (by default below ~/.cache),
the oldest given up when they come to more than a gigabyte. `python -m gm.compile_cache` lists them, --clear removes
them.

A graph names the library of compiled kernels that it calls, and MindSpore would load any that is named there. So a
cache is used only where nobody else can write, as long as its files are those that were written, and if they name no
library but this run's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gm import places, trust
from gm.console import say
from gm.errors import UserError, run_cli
from gm.files import PATH, temporary_folder

_ENABLE, _PATH = "MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH"
_DECIDING = ("MS_", "SVD_FORMS")  # beginnings of the environment's names that change what is compiled
_VARIABLE = "SVD_COMPILE_CACHE"  # in the environment: what --compile_cache is where it is not given
_CHECKSUMS = "checksums.json"
_PROGRAMS = ("app.py", "image_to_video.py", "train.py")  # beside gm/
_LIMIT = 2**30  # bytes of all graphs in a folder; those of svd_tiny take 1.5 MB for each size of video
_IN_USE = 3600  # seconds since its last use after which a run that uses it has read all of it
_used: list[Path] = []  # folders of this process: MindSpore reads the path once and counts on, so there can be one


def quiet() -> None:
    """Silence MindSpore's warnings at every graph that it caches or loads. Before mindspore is imported."""
    os.environ.setdefault("MS_SUBMODULE_LOG_v", "{PIPELINE:3}")


def ignore_environment() -> None:
    """MindSpore's own switch would mix the graphs of different runs up (see above); with a line if it is on."""
    if os.environ.get(_ENABLE) == "1":
        say(
            f"warning: {_ENABLE} is left out of account: it gives wrong results; --compile_cache is safe",
        )
    stop()


def default_folder() -> Path:
    """Where graphs are kept without being asked for."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "svd_mindspore" / "graphs"


def chosen(asked: str | Path | None, device_target: str, mode: int, **_: object) -> tuple[Path | None, bool]:
    """(folder for graphs or None, whether somebody asked for it) from the option, a folder or "off", or None.

    device_target, mode: in use. Where it was never tried, none is used without being asked for.
    """
    asked = asked or os.environ.get(_VARIABLE)
    if mode == 1 or asked == "off" or (asked is None and device_target != "CPU"):
        return None, False
    return (default_folder(), False) if asked is None else (Path(asked), True)


def key(conditions: object, root: Path = places.ROOT) -> str:
    """Name of the folder for conditions (anything that json can write) and the sources as they are now.

    root: the folder of the programs and of gm.
    """
    digest = hashlib.sha256(json.dumps(conditions, sort_keys=True, default=str).encode())
    environment = sorted((k, v) for k, v in os.environ.items() if k.startswith(_DECIDING) and k not in (_ENABLE, _PATH))
    digest.update(repr(environment).encode())
    programs = [root / name for name in _PROGRAMS if (root / name).is_file()]
    for path in sorted([*programs, *root.joinpath("gm").rglob("*.py")]):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:32]


def stop() -> None:
    """No cache from here on. For when a picture failed: graphs were left out, and the count is not right any more."""
    for name in (_ENABLE, _PATH):
        os.environ.pop(name, None)


@contextlib.contextmanager
def compile_cache(folder: Path | None, conditions: Callable[[], object], asked: bool = True) -> Iterator[bool]:
    """Within it, graphs come from `folder`, or go there when the body has ended without an exception.

    Yields whether the graphs were there already. Once in a process, and before any network has run.

    Args:
        folder: of all caches, made if it is not there; None for no cache.
        conditions: function that returns all that decides which graphs are compiled and in what order, but for the
            source files.
        asked: whether somebody asked for it. Else there is none where the folder cannot be used, with a line.

    Raises:
        UserError: a folder that was asked for and cannot be made or written.
    """
    folder = None if folder is None or (_used and not asked) else _own_folder(folder, asked)
    if folder is None:
        yield False
        return
    if _used:
        raise RuntimeError("a process can have one compile cache: MindSpore counts its graphs from the start")
    kept = folder / key(conditions())
    found = kept.is_dir() and _is_whole(kept)
    if found:
        os.utime(kept / _CHECKSUMS)  # its last use
    with contextlib.ExitStack() as stack:
        place = kept if found else stack.enter_context(temporary_folder(folder)) / "graphs"
        place.mkdir(mode=0o700, exist_ok=True)
        _used.append(place)
        os.environ.update({_ENABLE: "1", _PATH: str(place)})
        stack.callback(stop)
        yield found
        if found:
            _note_more(kept)
        elif any(place.iterdir()):
            _write_checksums(place)
            with contextlib.suppress(OSError):  # another run was faster
                place.rename(kept)
            _give_up_oldest(folder)


def entries(folder: str | Path) -> list[tuple[float, int, Path]]:
    """[(last use in seconds since 1970, bytes, path)] of what is kept in a folder, the latest first."""
    found = []
    for path in Path(folder).glob("*"):
        with contextlib.suppress(OSError):  # another run has removed it
            used = (path / _CHECKSUMS).stat().st_mtime
            found.append((used, sum(part.stat().st_size for part in path.rglob("*")), path))
    return sorted(found, reverse=True)


def _give_up_oldest(folder: Path) -> None:
    total = 0
    for used, size, path in entries(folder):
        total += size
        if total > _LIMIT and time.time() - used > _IN_USE:
            shutil.rmtree(path, ignore_errors=True)


def _own_folder(folder: Path, asked: bool) -> Path | None:
    """The folder of all caches, made if need be; None, with a line, where others could write into it."""
    folder = Path(folder).resolve()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with temporary_folder(folder):
            reason = trust.fault(folder)
    except OSError as error:
        reason = f"cannot be written: {error.strerror or error}"
        if asked:
            raise UserError(f"--compile_cache {folder}: {reason}") from error
        reason = f"{folder}: {reason}"
    if reason is not None:
        what = "--compile_cache is not used" if asked else "compiled networks are not kept for the next run"
        say(f"warning: {what}: {reason}")
        return None
    return folder


def _note_more(kept: Path) -> None:
    """Take note of graphs that were added to a kept folder: the run that made it was stopped before they came."""
    with contextlib.suppress(OSError, ValueError):  # another run has removed them
        if len(json.loads((kept / _CHECKSUMS).read_bytes())) < sum(path.is_file() for path in kept.rglob("*")) - 1:
            _write_checksums(kept)


def _write_checksums(folder: Path) -> None:
    (folder / _CHECKSUMS).write_text(json.dumps(_checksums(folder)), encoding="utf-8")


def _checksums(folder: Path) -> dict[str, str]:
    """{path below the folder: hash} of all files."""
    paths = sorted(path for path in folder.rglob("*") if path.name != _CHECKSUMS and not path.is_dir())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _is_whole(kept: Path) -> bool:
    """Whether a kept folder is as it was written and calls no foreign library; else it is removed, with a line."""
    try:
        if trust.fault(kept) is None:
            stored = json.loads((kept / _CHECKSUMS).read_bytes())
            if stored == _checksums(kept) and not _foreign_libraries(kept):
                return True
    except (OSError, ValueError):
        pass
    say(f"warning: the compile cache {kept} is damaged or was changed, and is made anew")
    shutil.rmtree(kept, ignore_errors=True)
    return False


def _foreign_libraries(kept: Path) -> bool:
    """Whether a graph would load anything but the kernels of this run."""
    from gm import ops

    own = re.escape(os.fsencode(ops.compiled_library() or "\0"))
    for path in kept.rglob("*.mindir"):
        content = path.read_bytes()
        # "func_name", the mark of a string, its length in one byte or two, the library, ":" and the kernel
        rest = re.sub(rb"func_name\*[\x00-\xff]{1,2}?" + own + b":", b"", content, flags=re.DOTALL)
        if b"func_name" in rest or b".so" in re.sub(own + b":", b"", rest):
            return True
    return False


def main(argv: Sequence[str] | None = None) -> int:
    from gm.parser import Parser

    parser = Parser("The compiled networks that are kept for later runs.")
    parser.add_argument("--folder", type=PATH, help="by default where they are kept without being asked for")
    parser.add_argument("--clear", action="store_true", help="remove them all")
    options = parser.parse_args(argv)
    folder = options.folder or default_folder()
    found = entries(folder)
    for used, size, path in found:
        print(f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(used))}  {size / 1e6:8.1f} MB  {path.name}")
        if options.clear:
            shutil.rmtree(path)
    print(
        f"{folder}: {len(found)} sets of graphs, {sum(size for _, size, _ in found) / 1e6:.1f} MB"
        f"{', removed' if options.clear else ''}"
    )
    return 0


if __name__ == "__main__":
    run_cli(main)
