"""Weights in several files: folders as diffusers and its training programs write them, and files cut into shards.

A model's folder has a folder for each part (unet, vae, image_encoder); a part's folder has one file of weights, or
several with an index beside them, which names the file of every tensor.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from gm.checkpoint.diffusers_names import PARTS, UNET
from gm.checkpoint.formats import open_checkpoint
from gm.checkpoint.reader import Reader
from gm.checkpoint.view import Source, View
from gm.errors import UserError

MEANS = "unet_ema"  # where training programs leave the running mean of the UNet
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
# Full precision before half, safetensors before pickles.
_ENDS = (
    ".safetensors",
    ".safetensors.index.json",
    ".fp16.safetensors",
    ".safetensors.index.fp16.json",
    ".fp16.safetensors.index.json",
    ".bin",
    ".bin.index.json",
    ".fp16.bin",
)
# Of one precision: a file, and the indexes of shards that may lie beside it.
_RIVALS = {
    ".safetensors": (".safetensors.index.json",),
    ".fp16.safetensors": (".safetensors.index.fp16.json", ".fp16.safetensors.index.json"),
    ".bin": (".bin.index.json",),
}
_INDEX = ".index."
_LONGEST_INDEX = 16_000_000  # bytes


def is_sharded(path: str | Path) -> bool:
    """Whether the path is that of an index of shards."""
    return _INDEX in Path(path).name and Path(path).suffix == ".json"


def parts_of(folder: str | Path, use_ema: bool = False) -> dict[str | None, Path]:
    """The parts that a folder holds, {"unet", "vae", "image_encoder" or None: path of the weights' file or index}.

    None stands for a part's own folder; its names tell which it is. use_ema: take the UNet's running mean.
    Raises UserError if there are no weights in it, or a part is there twice, as a file and in shards.
    """
    folder = Path(folder)
    unet = MEANS if use_ema else UNET
    there = {part: folder / (unet if part == UNET else part) for part in PARTS}
    there = {part: path for part, path in there.items() if path.is_dir()}
    if use_ema and UNET not in there and (folder / UNET).is_dir():
        raise UserError(f"{folder} has no folder {MEANS}: there is no running mean to take")
    if not use_ema and UNET not in there and (folder / MEANS).is_dir():
        raise UserError(f"{folder} has a folder {MEANS} and none called {UNET}: name {folder / MEANS} itself")
    if there:
        return {part: _require_weights_file(path) for part, path in there.items()}
    found = _weights_file(folder)
    return {None: found} if found else {}


def _weights_file(folder: Path) -> Path | None:
    for stem in _STEMS:
        for end in _ENDS:
            path = folder / f"{stem}{end}"
            if path.exists():
                _refuse_rivals(path, [folder / f"{stem}{other}" for other in _RIVALS.get(end, ())])
                return path
    return None


def _refuse_rivals(path: Path, indexes: list[Path]) -> None:
    """UserError where an index with all its shards lies beside a file: one of them is of an earlier save, which
    diffusers leaves there. It reads the shards, transformers the file."""
    for index in indexes:
        with contextlib.suppress(UserError):  # one that is damaged is nothing to read
            shards = set(_weight_map(index).values())
            if all((path.parent / shard).exists() for shard in shards):
                break
    else:
        return
    raise UserError(
        f"{path.parent} holds weights twice: {path.name}, and {len(shards)} shards of {index.name}. One of them is "
        f"an earlier save's: move {path.name} or {index.name} away, or name the one that you want"
    )


def _require_weights_file(folder: Path) -> Path:
    found = _weights_file(folder)
    if found is None:
        raise UserError(
            f"{folder} holds no weights: expected {_STEMS[0]}.safetensors or {_STEMS[1]}.safetensors, also "
            "as .fp16.safetensors, in shards with their index, or as .bin"
        )
    return found


def open_shards(path: str | Path) -> View:
    """Open all shards of an index as one checkpoint.

    Raises UserError if the index is damaged or points outside its folder, if a shard is missing, or if the shards hold
    other tensors than the index says.
    """
    path = Path(path)
    files: dict[str, Reader] = {}
    shards = list(dict.fromkeys(_weight_map(path).values()))
    for shard in shards:
        if not (path.parent / shard).exists():
            raise UserError(f"{path.parent / shard} is missing: {path.name} names {len(shards)} files: get them all")
        files[shard] = open_checkpoint(path.parent / shard)
    sources, wanted = {}, _weight_map(path)
    for shard, file in files.items():
        for name in file.names():
            if wanted.get(name) != shard:
                raise UserError(
                    f"{path.parent / shard} holds {name}, which {path.name} does not say: "
                    "files of different models are mixed; download them all again"
                )
            sources[name] = Source.of(file, name)
    missing = [name for name in wanted if name not in sources]
    if missing:
        raise UserError(
            f"{path.parent / wanted[missing[0]]} lacks {missing[0]}, which {path.name} says is in it: download it again"
        )
    return View(path, sources, description=f"{len(files)} shards")


def _weight_map(path: Path) -> dict[str, str]:
    """{tensor's name: file's name} of an index; every file lies beside it."""
    try:
        if path.stat().st_size > _LONGEST_INDEX:
            raise ValueError(f"it has more than {_LONGEST_INDEX:,} bytes")
        found = json.loads(path.read_bytes())["weight_map"]
        if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
            raise ValueError("its weight_map does not give files to names")
    except FileNotFoundError as error:
        raise UserError(f"no such checkpoint: {path}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not an index of shards ({error}): download it again") from error
    for shard in set(found.values()):
        if shard in ("", ".", "..") or Path(shard).name != shard or "\\" in shard or "\0" in shard or is_sharded(shard):
            raise UserError(f"{path} is refused: it points to {shard!r}, which is no file beside it")
    return found
