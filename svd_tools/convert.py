"""Convert a Stable Video Diffusion checkpoint into a MindSpore checkpoint, streaming tensor by tensor.

python svd_tools/convert.py --pt_weights_file svd.safetensors --config configs/svd.yaml --out_dir checkpoints
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from tqdm import tqdm

from gm.checkpoint.formats import open_checkpoint
from gm.checkpoint.match import match
from gm.checkpoint.rules import original_name, unused_reason
from gm.checkpoint.writer import write_safetensors
from gm.errors import UserError, run_cli
from gm.files import atomic_path, require_space

FORMATS = ("safetensors", "ckpt")
DTYPES = ("float16", "float32")


def convert(weights_file, expected, out_dir, dtype=None, file_format="safetensors", overwrite=False):
    """Write the parameters `expected` of a checkpoint as a MindSpore checkpoint called like the input.

    Args:
        weights_file: the original single-file checkpoint (safetensors, PyTorch zip pickle) or the older port's .ckpt.
        expected: dict from every parameter's original name to its shape.
        out_dir: folder of the output; made if it is not there.
        dtype: "float16" or "float32"; None keeps these two and makes float32 of any other floating-point type.
        file_format: "safetensors" (one tensor in memory at a time) or "ckpt" (MindSpore's own: the whole model is held
            in memory, about twice its size).
        overwrite: replace an output file that is already there.

    Returns the path of the output. Raises UserError, with nothing written, if the checkpoint does not hold exactly the
    expected parameters, if a value exceeds the float16 range, or if the output cannot be written.
    """
    start = time.monotonic()
    with open_checkpoint(weights_file) as checkpoint:
        sources = match(checkpoint, expected)
        path = _output_path(checkpoint.path, out_dir, file_format, overwrite)
        names = {source: name for name, source in sources.items()}
        entries = [  # in the order of the input, which is then read from front to back
            (names[source], checkpoint.shape(source), _output_dtype(checkpoint.dtype(source), dtype))
            for source in checkpoint.names()
            if source in names
        ]
        types = {name: to for name, _, to in entries}
        total = sum(int(np.prod(shape)) * to.itemsize for _, shape, to in entries)
        with tqdm(total=total, unit="B", unit_scale=True, desc=path.name, file=sys.stderr) as bar:

            def read(name):
                checkpoint.release()
                return _cast(checkpoint.read(sources[name]), types[name], sources[name])

            if file_format == "safetensors":
                origin = {"source": checkpoint.path.name}
                write_safetensors(path, entries, read, metadata=origin, progress=bar.update)
            else:
                _write_ckpt(path, entries, read, total, bar.update)
        _report(checkpoint, sources, types, path, time.monotonic() - start)
    return path


def _output_path(source, out_dir, file_format, overwrite):
    folder = Path(out_dir)
    path = folder / f"{source.stem}.{file_format}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the output folder {folder}: {error.strerror}") from error
    if path.exists():
        if os.path.samefile(path, source):
            raise UserError(f"the output would replace the input {source}: choose another --out_dir")
        if not overwrite:
            raise UserError(f"{path} is already there: delete it, choose another --out_dir or add --overwrite")
    return path


def _output_dtype(source, wanted):
    if wanted is not None:
        return np.dtype(wanted)
    return source if source.name in DTYPES else np.dtype(np.float32)


def _cast(array, dtype, name):
    """`array` as `dtype`; refuses values that the type cannot hold, and warns of those that are no numbers already."""
    if np.finfo(dtype).max < np.finfo(array.dtype).max:
        limit = np.finfo(dtype).max
        largest = max(np.fmax.reduce(array, axis=None), -np.fmin.reduce(array, axis=None))  # NaN is passed over
        if largest > limit:
            raise UserError(
                f"{name} holds the value {largest:g}, beyond the largest {dtype} number {limit:g}: "
                "convert with --dtype=float32"
            )
    if not np.isfinite(array).all():
        tqdm.write(f"warning: {name} holds values that are not finite (NaN or infinite)", file=sys.stderr)
    return array.astype(dtype, copy=False)


def _write_ckpt(path, entries, read, total, progress):
    import mindspore

    require_space(path.parent, total)
    parameters = []
    for name, _, _ in entries:
        array = read(name)
        parameters.append({"name": name, "data": mindspore.Tensor(array)})
        progress(array.nbytes)
    with atomic_path(path) as temporary:
        mindspore.save_checkpoint(parameters, str(temporary))
        temporary.chmod(0o644)  # MindSpore leaves its files read-only


def _report(checkpoint, sources, types, path, seconds):
    used = set(sources.values())
    dropped = Counter(unused_reason(original_name(name)) for name in checkpoint.names() if name not in used)
    print(f"{len(sources)} keys mapped")
    for reason, count in dropped.items():
        print(f"{count} keys dropped: {reason}")
    if checkpoint.ignored:
        print(f"left aside beside `state_dict`: {', '.join(checkpoint.ignored)}")
    kinds = ", ".join(sorted({dtype.name for dtype in types.values()}))
    print(f"{path}: {kinds}, {path.stat().st_size / 1e9:.3f} GB, {seconds:.1f} s")


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--pt_weights_file",
        required=True,
        help="the original checkpoint: safetensors, or a PyTorch file of plain tensors (read without torch), "
        "or the older MindSpore port's .ckpt",
    )
    parser.add_argument("--config", required=True, help="the model's YAML file, for instance configs/svd.yaml")
    parser.add_argument("--out_dir", required=True, help="folder of the output; made if it is not there")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="type of the output; by default float16 and float32 stay what they are"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="safetensors",
        help="ckpt is MindSpore's own format; writing it holds the whole model in memory",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output file that is already there")
    options = parser.parse_args(argv)

    from gm.model import expected_parameters  # imports MindSpore: not needed for --help

    expected = expected_parameters(options.config)
    convert(options.pt_weights_file, expected, options.out_dir, options.dtype, options.format, options.overwrite)


if __name__ == "__main__":
    run_cli(main)
