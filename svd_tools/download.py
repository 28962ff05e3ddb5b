"""Fetch the weights of a published version from the Hugging Face hub, into the folder where they are looked for.

python svd_tools/download.py svd_xt

Stopped or cut off, the same command goes on where it was. The licence is accepted on the hub's page first; a refusal
says how. HF_TOKEN, HF_ENDPOINT (a mirror) and the hub's other variables of the environment hold.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gm import places
from gm.checkpoint.published import REPOSITORIES, checkpoints_folder
from gm.console import progress_bar, say
from gm.data.outputs import make_folder
from gm.errors import UserError, run_cli
from gm.files import require_space
from gm.parser import Parser

_HUB = "https://huggingface.co"
_SHA256 = re.compile("[0-9a-f]{64}")
_PIECE = 2**22  # bytes read at a time
_AGAIN = "The same command goes on where it stopped."


def download(version: str, folder: str | Path) -> Path:
    """Fetch <version>.safetensors into the folder and check its size and SHA-256; returns its path.

    What is there and is the hub's file is not fetched again. Until it is whole and right a file lies in a hidden folder
    below, so that nobody takes it for the weights.

    Raises:
        UserError: no library, no permission, no such file, no network, no room, another file of that name, or one that
            came in damaged; each with what to do.
    """
    hub = _library()
    folder, repository, name = Path(folder), REPOSITORIES[version], f"{version}.safetensors"
    make_folder(folder)
    path, partial = folder / name, folder / f".{version}.download"
    try:
        url = hub.hf_hub_url(repository, name, endpoint=_endpoint())
        about = hub.get_hf_file_metadata(url, endpoint=_endpoint())
        size, sha256 = _promised(about, url)
        if path.exists():
            _check(path, size, sha256, "is not the hub's file: move it away to download that")
            return path
        require_space(folder, size - _so_far(partial, sha256))
        fetched = _fetch(hub, repository, name, about, partial)
    except OSError as error:  # the library's errors are, those of the network included
        raise UserError(_explain(error, hub, repository, name, folder)) from error
    try:
        _check(
            fetched,
            size,
            sha256,
            "came in damaged and was removed: run the command again, behind a mirror with another one",
        )
    except UserError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    os.replace(fetched, path)
    shutil.rmtree(partial, ignore_errors=True)
    return path


def _library() -> Any:
    """huggingface_hub; over HTTP alone, which mirrors have and which can go on with half a file (Xet is neither)."""
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise UserError(f"this needs huggingface_hub: python -m {places.install('download')}") from error
    return huggingface_hub


def _fetch(hub: Any, repository: str, name: str, about: Any, partial: Path) -> str:
    """Path of the fetched file below `partial`. A connection that breaks is made again while it brings anything."""
    while True:
        before = _so_far(partial, about.etag)
        try:
            return hub.hf_hub_download(
                repository, name, revision=about.commit_hash, local_dir=partial, endpoint=_endpoint()
            )
        except OSError as error:
            got = _so_far(partial, about.etag)
            if got <= before or _status(error) is not None or error.errno is not None:
                raise
            say(f"the connection broke at {got / 1e9:.2f} of {about.size / 1e9:.2f} GB; going on")


def _so_far(partial: Path, sha256: str) -> int:
    """Bytes of the file that an earlier try has left."""
    return sum(file.stat().st_size for file in partial.rglob(f"*{sha256}.incomplete"))


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")


def _promised(about: Any, url: str) -> tuple[int, str]:
    """(size in bytes, SHA-256 in hexadecimal) that the server states."""
    if about.size is None or about.commit_hash is None or not _SHA256.fullmatch(about.etag or ""):
        raise UserError(
            f"{url}: the answer has no size and SHA-256, so it is not the hub's but perhaps a proxy's or a "
            "login page; check HF_ENDPOINT and the proxy"
        )
    return about.size, about.etag


def _check(path: str | Path, size: int, sha256: str, otherwise: str) -> None:
    """UserError ending in `otherwise` unless the file has the size and the SHA-256; a bar over its bytes."""
    found = os.path.getsize(path)
    if found != size:
        raise UserError(f"{path}: {found} bytes where the hub has {size}; it {otherwise}")
    digest = hashlib.sha256()
    with open(path, "rb") as file, progress_bar(size, "checking SHA-256", "B", scale=True) as bar:
        while piece := file.read(_PIECE):
            digest.update(piece)
            bar.update(len(piece))
    if digest.hexdigest() != sha256:
        raise UserError(f"{path}: SHA-256 {digest.hexdigest()} where the hub has {sha256}; it {otherwise}")


def _explain(error: OSError, hub: Any, repository: str, name: str, folder: Path) -> str:
    """A message with what to do for an error of the library, of the network or of the disk."""
    errors = hub.errors
    status = _status(error)
    elsewhere = f"Without a network, fetch {name} from {_HUB}/{repository} elsewhere and put it into {folder}."
    if isinstance(error, errors.GatedRepoError) or status in (401, 403):
        return _refused(hub, repository, status)
    if status == 404:
        return f"{_endpoint()}/{repository} has no {name}. A mirror may lack it: try another HF_ENDPOINT, or none"
    if status is not None:
        return f"{_endpoint()} answered {status} for {repository}: try again later. {_AGAIN}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set in the environment: unset it to download. {elsewhere}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
        return f"cannot write in {folder}: {error.strerror}. Make room, or give another --checkpoints_dir. {_AGAIN}"
    return (
        f"cannot reach {_endpoint()}, or the connection broke ({_cause(error)}). {_AGAIN} Where the hub is blocked "
        f"name a mirror, for instance HF_ENDPOINT=https://hf-mirror.com. {elsewhere}"
    )


def _refused(hub: Any, repository: str, status: int | None) -> str:
    page, token = f"{_HUB}/{repository}", hub.get_token()
    have = "no token is set" if token is None else "the token that is set was refused"
    lines = [
        f"{_endpoint()} does not give {repository} to everybody ({status}), and {have}:",
        f"1. log in on {page} and accept the licence there (once)",
        f"2. make a token for reading on {_HUB}/settings/tokens, of the same account; a fine-grained one needs access "
        "to public gated repositories",
        "3. give it: `hf auth login`, or HF_TOKEN=hf_… in the environment, and run the command again",
    ]
    return "\n  ".join(lines)


def _status(error: BaseException) -> int | None:
    """The server's answer, such as 404; None where there was none."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _cause(error: BaseException) -> str:
    """The innermost cause, in short."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return (str(error).strip() or type(error).__name__).splitlines()[-1][:160]


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("version", choices=list(REPOSITORIES), help="the version to fetch; svd_tiny needs no download")
    parser.add_argument(
        "--checkpoints_dir", help="folder for it; by default SVD_CHECKPOINTS of the environment, else checkpoints"
    )
    options = parser.parse_args(argv)
    path = download(options.version, checkpoints_folder(options.checkpoints_dir))
    print(
        f"{path}: size and SHA-256 are the hub's. Now: {places.command('image_to_video.py')} "
        f"--version={options.version} --image=photo.jpg"
    )


if __name__ == "__main__":
    run_cli(main)
