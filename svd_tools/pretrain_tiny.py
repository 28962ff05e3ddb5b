"""Train the tiny model from nothing, on clips that the program draws itself: about five hours on two CPU cores.

python svd_tools/pretrain_tiny.py --output_dir=outputs/tiny

Can be stopped at any time (Ctrl-C, SIGTERM, a power cut) and goes on with the same command. The result is
<output_dir>/svd_tiny.safetensors, float16; docs/svd_tiny.md describes the stages.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from gm import places
from gm.console import say
from gm.errors import run_cli
from gm.parser import Parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "--config", default=os.fspath(places.CONFIGS / "svd_tiny_train.yaml"), help="YAML file of the recipe"
    )
    parser.add_argument("--output_dir", required=True, help="folder of the run; goes on with what is in it")
    options = parser.parse_args(argv)

    from gm import ops
    from gm.config import load, require_utf_8
    from gm.pretraining.recipe import pretrain
    from gm.pretraining.settings import Recipe
    from gm.pretraining.stage import Stopped

    logging.basicConfig(format="%(levelname)s: %(message)s")
    require_utf_8([options.config, options.output_dir])
    recipe = load(Recipe, options.config)
    ops.set_device()
    try:
        output = pretrain(recipe, options.output_dir, Path(options.config).parent)
    except Stopped as stopped:
        place, status = stopped.args
        say(f"stopped in {place}; the same command goes on")
        return status
    print(f"{output}: the trained model, float16")
    return 0


if __name__ == "__main__":
    run_cli(main)
