"""Fine-tune Stable Video Diffusion on a folder of videos.

python train.py --config=configs/svd_train.yaml --svd_config=configs/svd.yaml --train.pretrained=svd.safetensors \\
  --train.output_dir=outputs/train --train.dataset.init_args.data_dir=videos \\
  --train.dataset.init_args.metadata=labels.csv
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from gm import compile_cache, imports, kernels, places
from gm.console import say
from gm.errors import UserError, run_cli
from gm.inference_options import add_option


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """(arguments, key=value overrides of the config)."""
    parser = _Parser(
        prog=places.command("train.py"),
        description=places.spelled(__doc__ or ""),
        add_help=False,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--help", "-h", action="store_true", help="print this and every option, and stop")
    parser.add_argument(
        "--config", default=places.CONFIGS / "svd_train.yaml", help="YAML file with the options below (svd_train.yaml)"
    )
    parser.add_argument("--svd_config", default=places.CONFIGS / "svd.yaml", help="YAML file of the model (svd.yaml)")
    add_option(parser, "memory_check")
    add_option(parser, "compile_cache")
    parser.add_argument("--dry_run", action="store_true", help="print settings, parameters and memory, and stop")
    arguments, rest = parser.parse_known_args(argv)
    if arguments.help:
        from gm.training.settings import describe_options

        parser.print_help()
        print("\noptions of the config, --name=value [default]:")
        print("\n".join(describe_options()))
        sys.exit(0)
    return arguments, _overrides(rest)


def _overrides(rest: Sequence[str]) -> list[str]:
    """["--a.b=1", "--a.c", "2"] -> ["a.b=1", "a.c=2"]."""
    found, rest = [], list(rest)
    while rest:
        option = rest.pop(0)
        if not option.startswith("--"):
            raise UserError(f"{option!r} belongs to no option: write --name=value; see --help")
        if "=" not in option:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{option} needs a value: {option}=value; see --help")
            option = f"{option}={rest.pop(0)}"
        found.append(option[2:])
    from gm.config import require_utf_8  # brings what --help does not wait for

    require_utf_8(found)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    arguments, overrides = parse(sys.argv[1:] if argv is None else argv)
    compile_cache.quiet()
    kernels.begin()
    with imports.for_good():
        from gm import ops
        from gm.model import load_model_config
        from gm.ops import parallel
        from gm.training import dry_run, loop, memory
        from gm.training.plan import Plan
        from gm.training.settings import load_settings, precision

    logging.basicConfig(format="%(levelname)s: %(message)s")
    settings = load_settings(arguments.config, overrides)
    config = load_model_config(arguments.svd_config)
    environment = settings.environment
    ops.set_device(environment.device_target, environment.mode, environment.fast_float32)
    precision(settings.train)  # refused here, before anything is read
    if environment.distributed:
        parallel.init()
    check = arguments.memory_check == "on"
    if arguments.dry_run:
        plan = Plan(settings, config)
        for warning in plan.warnings():
            say(f"warning: {warning}")
        print(dry_run.describe(plan))
        print(memory.check(plan) if check else "memory is not checked")
        return 0
    return loop.train(
        settings,
        config,
        ["train.py", *(sys.argv[1:] if argv is None else argv)],
        memory_check=check,
        compile_cache=arguments.compile_cache,
    )


if __name__ == "__main__":
    run_cli(main)
