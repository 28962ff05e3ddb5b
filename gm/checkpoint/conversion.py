"""A checkpoint written in another layout, streaming tensor by tensor: `convert`."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable

import numpy as np

from gm.checkpoint.casting import cast
from gm.checkpoint.export import (
    DIFFUSERS,
    LORA_FILE,
    MINDSPORE,
    ORIGINAL,
    diffusers_parts,
    lora_tensors,
    weights_path,
    without_place,
)
from gm.checkpoint.lora import is_lora
from gm.checkpoint.match import match, parts_of
from gm.checkpoint.model_file import open_model
from gm.checkpoint.rules import UNET, original_name, unused_reason
from gm.checkpoint.view import Source, View
from gm.checkpoint.writer import write_safetensors
from gm.console import progress_bar, say
from gm.errors import UserError
from gm.files import atomic_path, require_space

FORMATS = ("safetensors", "ckpt")
DTYPES = ("float16", "float32")


def convert(
    weights_file: str | Path,
    expected: dict[str, tuple[int, ...]],
    out_dir: str | Path,
    dtype: str | None = None,
    file_format: str = "safetensors",
    overwrite: bool = False,
    to: str = MINDSPORE,
    base: str | Path | None = None,
    use_ema: bool = False,
    configs: Callable[[list[str]], dict[str, Any]] | None = None,
) -> Path:
    """Write the parameters `expected` of a checkpoint in another layout, called like the input.

    Args:
        weights_file, base, use_ema: see `gm.checkpoint.model_file.open_model`; a part of a model without a base is
            written as such. Or a LoRA file.
        expected: dict from every parameter's original name to its shape.
        out_dir: folder of the output; made if it is not there.
        dtype: "float16" or "float32"; None keeps these two and makes float32 of any other floating-point type.
        file_format: "safetensors" (one tensor in memory at a time) or "ckpt" (MindSpore's own: the whole model is held
            in memory, about twice its size; only of "mindspore").
        overwrite: replace an output file that is already there; a folder never is.
        to: "mindspore" what SVD uses, under the original names; "original" with what it does not use, where that is
            there; "diffusers" a folder.
        configs: for "diffusers", function of the parts that are there -> {path: content} of the config files.

    Returns the path of the output. Raises UserError, with nothing written, if the checkpoint does not hold exactly the
    expected parameters, if a value exceeds the float16 range, or if the output cannot be written.
    """
    start = time.monotonic()
    if file_format == "ckpt" and to != MINDSPORE:
        raise UserError(f"--format=ckpt is MindSpore's own: leave it out, or --to={to}")
    with open_model(weights_file, base, use_ema) as checkpoint:
        print(f"{checkpoint.path}: {checkpoint.description}")
        if is_lora(checkpoint.names()):
            return _convert_lora(checkpoint.path, expected, out_dir, dtype, overwrite, to)
        parts = parts_of(checkpoint.names()) or parts_of(expected)
        sources = match(checkpoint, {name: shape for name, shape in expected.items() if parts_of([name]) <= parts})
        model = _renamed(checkpoint, sources, to)
        suffix = "" if to == DIFFUSERS else f".{file_format}"
        path = _output_path(checkpoint.path, checkpoint.files(), out_dir, suffix, overwrite)
        if to == DIFFUSERS:
            _write_folder(path, model, dtype, configs or (lambda parts: {}))
        elif file_format == "ckpt":
            _write_ckpt(path, model, dtype)
        else:
            _write(path, model, dtype)
        _report(checkpoint, model, path, dtype, time.monotonic() - start)
    return path


def _renamed(checkpoint: View, sources: dict[str, str], to: str) -> View:
    """The `View` of what is written, under the original names and in the order of the input: read front to back."""
    names = {source: name for name, source in sources.items()}
    if to == ORIGINAL:
        names.update(
            {
                source: original_name(source)
                for source in checkpoint.names()
                if unused_reason(original_name(source)) is not None
            }
        )
    return View(
        checkpoint.path,
        {names[source]: Source.of(checkpoint, source) for source in checkpoint.names() if source in names},
    )


def _output_path(source: Path, inputs: Iterable[Path], out_dir: str | Path, suffix: str, overwrite: bool) -> Path:
    """Where the output goes, called like `source`; inputs: all files that are read. UserError where it cannot go."""
    folder = Path(out_dir)
    stem = (
        source.name
        if source.is_dir()
        else source.name.split(".safetensors")[0]
        if ".safetensors" in source.name
        else source.stem
    )
    path = folder / f"{stem}{suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the output folder {folder}: {error.strerror}") from error
    if os.path.lexists(path):
        for given in (source, *inputs):
            if path.exists() and os.path.samefile(path, given):
                raise UserError(f"the output would replace the input {given}: choose another --out_dir")
        if path.is_dir() or not suffix:
            raise UserError(f"{path} is already there: delete it or choose another --out_dir")
        if not overwrite:
            raise UserError(f"{path} is already there: delete it, choose another --out_dir or add --overwrite")
    return path


def _output_dtype(source: np.dtype, wanted: str | None) -> np.dtype:
    if wanted is not None:
        return np.dtype(wanted)
    return source if source.name in DTYPES else np.dtype(np.float32)


def _entries(view: View, dtype: str | None) -> list[tuple[str, tuple[int, ...], np.dtype]]:
    return [(name, tuple(view.shape(name)), _output_dtype(view.dtype(name), dtype)) for name in view.names()]


def _reader(view: View, entries: list[tuple[str, tuple[int, ...], np.dtype]]) -> Callable[[str], np.ndarray]:
    """Function of a name -> the tensor in its output type; warns of values that are no numbers already."""
    types = {name: to for name, _, to in entries}

    def read(name: str) -> np.ndarray:
        view.release()
        array = cast(view.read(name), types[name], name, "convert with --dtype=float32")
        if not np.isfinite(array).all():
            say(f"warning: {name} holds values that are not finite (NaN or infinite)")
        return array

    return read


def _bar(path: Path, entries: list[tuple[str, tuple[int, ...], np.dtype]]) -> Any:
    total = sum(int(np.prod(shape)) * to.itemsize for _, shape, to in entries)
    return progress_bar(total, path.name, "B", scale=True)


def _write(path: Path, view: View, dtype: str | None, metadata: dict[str, str] | None = None) -> None:
    entries = _entries(view, dtype)
    with _bar(path, entries) as bar:
        origin = metadata or {"source": view.path.name}
        write_safetensors(path, entries, _reader(view, entries), metadata=origin, progress=bar.update)


def _write_folder(path: Path, model: View, dtype: str | None, configs: Callable[[list[str]], dict[str, Any]]) -> None:
    """diffusers' folder, which takes its name when all of it is there."""
    parts = diffusers_parts(model)
    require_space(
        path.parent,
        sum(int(np.prod(shape)) * to.itemsize for view in parts.values() for _, shape, to in _entries(view, dtype)),
    )
    with atomic_path(path) as temporary:
        for part, view in parts.items():
            (temporary / part).mkdir(parents=True)
            _write(temporary / weights_path(part), view, dtype, {"format": "pt"})  # or transformers refuses it
        for name, content in configs(list(parts)).items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    lost = without_place(model.names())
    if lost:
        print(
            f"{len(lost)} keys have no place in a diffusers folder: training's own encoder, which is made of the "
            "other one when the folder is read"
        )


def _write_ckpt(path: Path, view: View, dtype: str | None) -> None:
    import mindspore

    entries = _entries(view, dtype)
    require_space(path.parent, sum(int(np.prod(shape)) * to.itemsize for _, shape, to in entries))
    read, parameters = _reader(view, entries), []
    with _bar(path, entries) as bar:
        for name, _, _ in entries:
            array = read(name)
            parameters.append({"name": name, "data": mindspore.Tensor(array)})
            bar.update(array.nbytes)
    with atomic_path(path) as temporary:
        mindspore.save_checkpoint(parameters, str(temporary))
        temporary.chmod(0o644)  # MindSpore leaves its files read-only


def _convert_lora(
    path: Path,
    expected: dict[str, tuple[int, ...]],
    out_dir: str | Path,
    dtype: str | None,
    overwrite: bool,
    to: str,
) -> Path:
    from gm.checkpoint.delta_file import Delta
    from gm.checkpoint.lora import Names

    shapes = {name: shape for name, shape in expected.items() if name.startswith(UNET)}
    delta = Delta(path, shapes, Names(shapes))
    if delta.whole:
        raise UserError(f"{path} holds trained tensors beside its LoRA: put it into a model with svd_tools/merge.py")
    for warning in delta.warnings:
        say(f"warning: {warning}")
    tensors, metadata = lora_tensors(delta, shapes, to)
    output = _output_path(path, delta.files, out_dir, f"_{LORA_FILE}" if to == DIFFUSERS else ".safetensors", overwrite)
    entries = [
        (
            name,
            *(
                (delta.file.shape(source), _output_dtype(delta.file.dtype(source), dtype))
                if source
                else (number.shape, number.dtype)
            ),
        )
        for name, (source, number) in tensors.items()
    ]
    types = {name: to for name, _, to in entries}

    def read(name: str) -> np.ndarray:
        source, number = tensors[name]
        return cast(delta.file.read(source), types[name], name, "use --dtype=float32") if source else number

    write_safetensors(output, entries, read, metadata)
    print(f"{output}: {delta.description}, written in the layout {to}")
    return output


def _report(checkpoint: View, model: View, path: Path, dtype: str | None, seconds: float) -> None:
    used = {name for source in model.sources.values() for _, name in source.parts}
    dropped = Counter(unused_reason(original_name(name)) for name in checkpoint.names() if name not in used)
    print(f"{len(used)} keys mapped")
    for reason, count in dropped.items():
        print(f"{count} keys dropped: {reason}")
    if checkpoint.ignored:
        listed = ", ".join(checkpoint.ignored[:5]) + (" …" if len(checkpoint.ignored) > 5 else "")
        print(f"left aside beside the weights: {listed}")
    kinds = ", ".join(sorted({to.name for _, _, to in _entries(model, dtype)}))
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    print(f"{path}: {kinds}, {sum(file.stat().st_size for file in files) / 1e9:.3f} GB, {seconds:.1f} s")
