"""Put what train.py saved alone (a delta or LoRA), or any LoRA, into its checkpoint: one file with the whole model.

python svd_tools/merge.py --checkpoint=svd.safetensors --delta=DIR/weights/delta.safetensors --output=mine.safetensors
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gm import places
from gm.console import progress_bar, say
from gm.errors import UserError, run_cli
from gm.parser import Parser


def merge(
    config: str | Path,
    checkpoint: str | Path,
    deltas: str,
    output: str | Path,
    base: str | Path | None = None,
    use_ema: bool = False,
    dtype: str | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write `output`, under the original names; one tensor in memory at a time.

    Args:
        config: path of the model's YAML file.
        checkpoint, base, use_ema: of the weights, see `gm.checkpoint.model_file.open_model`.
        deltas: one file, or several with strengths, see `gm.checkpoint.delta.parse_deltas`.
        dtype: "float16" or "float32"; None: every tensor's own.
        overwrite: replace an output that is there.

    Returns sentences that the user should see. UserError, with nothing written, if a file does not fit, a value is not
    finite or beyond its dtype, or `output` is there or one of the inputs.
    """
    from gm.checkpoint.casting import cast
    from gm.checkpoint.delta import Deltas, unet_shapes
    from gm.checkpoint.delta_file import parse_deltas
    from gm.checkpoint.writer import check_output, write_safetensors
    from gm.data.outputs import make_folder
    from gm.model import build_component, load_model_config
    from gm.weights import Weights

    given = parse_deltas(deltas)
    check_output(output, [checkpoint, base, *(path for path, _ in given)], overwrite)
    model = load_model_config(config)
    weights = Weights(model, checkpoint, base, use_ema)
    changes = Deltas(given, unet_shapes(build_component(model, "unet")))
    source = weights.checkpoint
    entries = [
        (name, tuple(source.shape(key)), np.dtype(dtype or source.dtype(key))) for name, key in weights.sources.items()
    ]
    check_output(output, [*weights.files(), *changes.files()], overwrite)  # a file within a folder that was given
    types, changed = {name: to for name, _, to in entries}, set(changes.names())
    make_folder(Path(output).parent)
    with progress_bar(len(entries), "merging", "tensor") as bar:

        def read(name: str) -> np.ndarray:
            bar.update()
            source.release()
            old = source.read(weights.sources[name])
            value = changes.changed(name, lambda: old) if name in changed else old
            if not np.isfinite(value).all():
                raise UserError(
                    f"{name} in {checkpoint} is not finite (NaN or infinite): the file is damaged, or its "
                    "training failed"
                )
            return cast(value, types[name], f"{name} with the delta", "merge with --dtype=float32")

        write_safetensors(output, entries, read)
    return changes.warnings(weights)


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--config", default=os.fspath(places.CONFIGS / "svd.yaml"), help="YAML file of the model")
    parser.add_argument("--checkpoint", required=True, help="the weights that were trained on, in any layout")
    parser.add_argument("--base", help="a whole model that completes the checkpoint where that is a part of one")
    parser.add_argument(
        "--use_ema",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="take the running mean (EMA) that lies beside the weights in the checkpoint",
    )
    parser.add_argument(
        "--delta",
        required=True,
        type=str,
        help="what train.py saved: delta.safetensors; a LoRA file; or several, as in [a.safetensors:0.8,b.safetensors]",
    )
    parser.add_argument("--output", required=True, help="the .safetensors file to write")
    parser.add_argument("--dtype", choices=("float16", "float32"), help="of all tensors; by default each has its own")
    parser.add_argument("--overwrite", action="store_true", help="replace an output file that is already there")
    options = parser.parse_args(argv)
    warnings = merge(
        options.config,
        options.checkpoint,
        options.delta,
        options.output,
        options.base,
        options.use_ema,
        options.dtype,
        options.overwrite,
    )
    for warning in warnings:
        say(f"warning: {warning}")
    print(f"{options.output}: {options.checkpoint} with {options.delta}")


if __name__ == "__main__":
    run_cli(main)
