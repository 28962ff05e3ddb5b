"""Convert a Stable Video Diffusion checkpoint into another layout, streaming tensor by tensor.

python svd_tools/convert.py --pt_weights_file svd.safetensors --config configs/svd.yaml --out_dir checkpoints

Reads what image_to_video.py reads, and LoRA files; --to says what becomes of it.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

from collections.abc import Collection, Sequence
from typing import Any

from gm.checkpoint.conversion import DTYPES, FORMATS, convert
from gm.checkpoint.export import LAYOUTS, MINDSPORE
from gm.console import say
from gm.errors import run_cli
from gm.parser import Parser

_PIPELINES_SIDE = 224  # pixels: what StableVideoDiffusionPipeline resizes the picture to, whatever the configs say


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--pt_weights_file",
        required=True,
        help="weights in any layout: the original's safetensors, a PyTorch file of plain tensors (read without torch), "
        "a diffusers folder, a UNet alone, the older MindSpore port's .ckpt; or a LoRA file",
    )
    parser.add_argument("--base", help="a whole model that completes the weights where they are a part of one")
    parser.add_argument(
        "--use_ema",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="take the running mean (EMA) that lies beside the weights",
    )
    parser.add_argument(
        "--to",
        choices=LAYOUTS,
        default=MINDSPORE,
        help="mindspore: what SVD uses of it, under the original names; original: with the rest, where it is there, a "
        "LoRA in kohya's naming; diffusers: a folder with its configs, a LoRA in PEFT's naming",
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

    from gm.checkpoint.diffusers_configs import check_configs
    from gm.model import expected_parameters, load_model_config  # imports MindSpore: not needed for --help

    expected = expected_parameters(options.config)
    check_configs(options.pt_weights_file, load_model_config(options.config), options.use_ema)
    if options.base:
        check_configs(options.base, load_model_config(options.config))
    convert(
        options.pt_weights_file,
        expected,
        options.out_dir,
        options.dtype,
        options.format,
        options.overwrite,
        options.to,
        options.base,
        options.use_ema,
        lambda parts: _configs(options.config, parts),
    )


def _configs(config: str, parts: Collection[str]) -> dict[str, Any]:
    """diffusers' configs of a model's YAML file, and a word where diffusers cannot build that model."""
    from gm.checkpoint.diffusers_configs import model_configs
    from gm.model import load_model_config

    loaded = load_model_config(config)
    model = loaded.model
    if "vae" in parts and model.vae.temporal_decoder and model.vae.num_res_blocks != 2:
        say(
            f"warning: this video VAE has num_res_blocks {model.vae.num_res_blocks}: diffusers then builds its decoder "
            "with another middle block than it was trained with, and shows other pictures; it fits with 2 alone"
        )
    if len(parts) == 3 and model.clip.image_size != _PIPELINES_SIDE:
        say(
            f"warning: this image encoder takes pictures of {model.clip.image_size} pixels: diffusers' pipeline gives "
            f"it {_PIPELINES_SIDE}, and stops; the parts load one by one"
        )
    return model_configs(loaded, parts)


if __name__ == "__main__":
    run_cli(main)
