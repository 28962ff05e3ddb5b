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
from gm.errors import run_cli
from gm.parser import Parser


def write_untrained(config_path: str | Path, output: str | Path, seed: int = 0, overwrite: bool = False) -> None:
    """Write every parameter of the model of a config, float32, under the original's names.

    Raises:
        UserError: a config that is not right, or an output that is there already or cannot be written.
    """
    from gm.checkpoint.writer import check_output, write_safetensors
    from gm.data.outputs import make_folder
    from gm.model import COMPONENTS, build_component, load_model_config
    from gm.networks.init import initialize

    check_output(output, (), overwrite)
    config = load_model_config(config_path)
    arrays = {}
    for name in COMPONENTS:
        cell = initialize(build_component(config, name), seed)
        arrays.update({p.name: p.asnumpy() for p in cell.get_parameters()})
    make_folder(Path(output).parent)
    write_safetensors(output, [(name, a.shape, a.dtype) for name, a in arrays.items()], arrays.__getitem__)


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--config",
        default=str(places.CONFIGS / "svd_untrained.yaml"),
        help="YAML file of a model small enough for the memory",
    )
    parser.add_argument("--output", required=True, help="the .safetensors file to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial values")
    parser.add_argument("--overwrite", action="store_true", help="replace an output file that is already there")
    options = parser.parse_args(argv)
    write_untrained(options.config, options.output, options.seed, options.overwrite)
    print(f"{options.output}: untrained weights of {options.config}")


if __name__ == "__main__":
    run_cli(main)
