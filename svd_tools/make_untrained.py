"""Write a checkpoint with initial values for a model's config: for trying the programs out without a download.

python svd_tools/make_untrained.py --output build/svd_untrained.safetensors
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

from collections.abc import Sequence
from pathlib import Path

from gm import places
from gm.errors import UserError, run_cli
from gm.parser import Parser


def write_untrained(config_path: str | Path, output: str | Path, seed: int = 0, overwrite: bool = False) -> None:
    """Write every parameter of the model of a config, float32, under the original's names.

    Raises:
        UserError: a config that is not right, or an output that is there already or cannot be written.
    """
    import numpy as np

    from gm.checkpoint.writer import check_output, write_safetensors
    from gm.data.outputs import make_folder
    from gm.model import load_model_config
    from gm.weights import InitialWeights

    check_output(output, (), overwrite)
    weights = InitialWeights(load_model_config(config_path), seed)
    make_folder(Path(output).parent)
    # One parameter after the other: a whole model may be larger than the memory.
    write_safetensors(output, [(name, shape, np.float32) for name, shape in weights.shapes.items()], weights.read)


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--config",
        default=str(places.CONFIGS / "svd_untrained.yaml"),
        help="YAML file of a model",
    )
    parser.add_argument("--output", required=True, help="the .safetensors file to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial values")
    parser.add_argument("--overwrite", action="store_true", help="replace an output file that is already there")
    options = parser.parse_args(argv)
    if options.seed < 0:
        raise UserError(f"--seed must be at least 0, not {options.seed}")
    write_untrained(options.config, options.output, options.seed, options.overwrite)
    print(f"{options.output}: untrained weights of {options.config}")


if __name__ == "__main__":
    run_cli(main)
