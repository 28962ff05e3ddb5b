"""Put what train.py saved alone (a delta or LoRA) into its checkpoint: one file with the whole model.

python svd_tools/merge.py --checkpoint=svd.safetensors --delta=DIR/weights/delta.safetensors --output=mine.safetensors
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

import os
import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from gm.console import progress_bar
from gm.errors import UserError, run_cli


def merge(config, checkpoint, delta, output):
    """Write `output`, under the original names, in the dtypes of the checkpoint; one tensor in memory at a time.

    Returns sentences that the user should see. UserError if a file does not fit, or `output` is one of the inputs.
    """
    from gm.checkpoint.delta import base_warnings, changed, changed_names, check_delta
    from gm.checkpoint.formats import open_checkpoint
    from gm.checkpoint.writer import write_safetensors
    from gm.data.outputs import make_folder
    from gm.model import Weights, build_component, load_model_config

    for path in (checkpoint, delta):
        if Path(output).exists() and os.path.samefile(output, path):
            raise UserError(f"--output would replace {path}: choose another name")
    config = load_model_config(config)
    weights = Weights(config, checkpoint)
    check_delta(delta, build_component(config, "unet"))
    source = weights.checkpoint
    entries = [(name, tuple(source.shape(key)), source.dtype(key)) for name, key in weights.sources.items()]
    make_folder(Path(output).parent)
    with open_checkpoint(delta) as trained, progress_bar(len(entries), "merging", "tensor") as bar:
        names = set(changed_names(trained))

        def read(name):
            bar.update()
            key = weights.sources[name]
            old = source.read(key)
            return changed(trained, name, lambda: old).astype(source.dtype(key)) if name in names else old

        write_safetensors(output, entries, read)
    return base_warnings(delta, weights)


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config", default=os.fspath(Path(__file__).resolve().parent.parent / "configs" / "svd.yaml"),
                        help="YAML file of the model")
    parser.add_argument("--checkpoint", required=True, help="the weights that were trained on")
    parser.add_argument("--delta", required=True, help="what train.py saved: delta.safetensors")
    parser.add_argument("--output", required=True, help="the .safetensors file to write")
    options = parser.parse_args(argv)
    for warning in merge(options.config, options.checkpoint, options.delta, options.output):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{options.output}: {options.checkpoint} with {options.delta}")


if __name__ == "__main__":
    run_cli(main)
