"""The whole way from initial values to a model that makes videos, stage by stage, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gm.checkpoint.formats import open_checkpoint
from gm.checkpoint.writer import write_safetensors
from gm.config import to_yaml
from gm.console import say
from gm.data.outputs import make_folder
from gm.files import atomic_path
from gm.model import COMPONENTS, build_component
from gm.model_config import ModelConfig, load_model_config
from gm.networks.init import initialize
from gm.pretraining.clips import ProceduralClips
from gm.pretraining.first_stage import (
    autoencoder_phase,
    decoder_phase,
    pass_frames_through,
    scale_latents,
    tower_phase,
)
from gm.pretraining.settings import Recipe, UnetStage
from gm.pretraining.stage import Stopped, run_stage
from gm.settings import Settings, raise_if
from gm.sizes import size_multiple, vae_factor
from gm.training import loop
from gm.training.log import changed
from gm.training.schedule import total_steps
from gm.training.settings import Train, TrainingSettings, load_settings
from gm.training.state import checkpoints, step_of

if TYPE_CHECKING:
    from mindspore import nn

    from gm.pretraining.stage import Phase

_HELD_OUT = 1000  # added to the seed for the clips that are not trained on


def pretrain(recipe: Recipe, folder: str | Path, configs: str | Path) -> Path:
    """Run every stage of `recipe` that is not complete yet; returns the path of the finished model, float16.

    Args:
        recipe: `gm.pretraining.settings.Recipe`.
        folder: gets a folder for each stage; a run that was cut off goes on in it.
        configs: folder with the model's config and svd_train.yaml.

    Raises:
        Stopped: after SIGTERM or Ctrl-C.
    """
    folder = Path(folder)
    make_folder(folder)
    config = load_model_config(Path(configs) / recipe.model)
    _compare({"recipe.yaml": recipe, "model.yaml": config}, folder)
    base = weights = folder / "base.safetensors"
    runs = []
    for name, stage in vars(recipe.unet).items():  # a fault of the last one is told before the first stage begins
        runs.append((name, stage, _settings(recipe, stage, folder, name, weights, Path(configs))))
        weights = folder / name / "weights" / "full_ema.safetensors"
    raise_if(list(_faults(recipe, config, [(name, told.train) for name, _, told in runs])), "invalid recipe:")
    if not base.exists():
        _frozen_parts(recipe, folder, config, base)
    for name, stage, settings in runs:
        _unet_stage(recipe, name, stage, settings, config, folder)
    output = folder / "svd_tiny.safetensors"
    with open_checkpoint(weights) as full:
        entries = [(name, full.shape(name), np.dtype(np.float16)) for name in full.names()]
        write_safetensors(output, entries, lambda name: full.read(name).astype(np.float16))
    return output


def _faults(recipe: Recipe, config: ModelConfig, runs: Iterable[tuple[str, Train]]) -> Iterator[str]:
    """What no setting tells alone, and would end the recipe hours later. runs: (stage of the UNet, what it is told)."""
    for name in ("autoencoder", "autoencoder_full", "decoder"):
        size, multiple = getattr(recipe, name).size, vae_factor(config.model)
        if size % multiple:
            yield f"{name}.size {size}: must be a multiple of {multiple} for this model"
    for name, train in runs:
        stage, multiple = getattr(recipe.unet, name), size_multiple(config.model)
        if stage.size % multiple:
            yield f"unet.{name}.size {stage.size}: must be a multiple of {multiple} for this model"
        batch = train.loader.batch_size * train.optimizer.accumulate
        steps = total_steps(train.epochs, None, stage.clips, batch)
        if train.max_steps is not None and steps < train.max_steps:
            yield (
                f"unet.{name}.train: max_steps {train.max_steps} would never be reached, as {train.epochs:g} epochs of "
                f"{stage.clips} clips are {steps} steps of {batch}: give more epochs"
            )


def _compare(given: Mapping[str, Settings], folder: Path) -> None:
    """Keep the recipe and the model that the folder is begun with, each under its name, and tell what is different in
    later ones."""
    for name, settings in given.items():
        if not (folder / name).exists():
            with atomic_path(folder / name) as temporary:
                temporary.write_text(to_yaml(settings), encoding="utf-8")
    changes = [change for name, settings in given.items() for change in changed(folder / name, settings)]
    for change in changes:
        say(f"warning: {change}")
    if changes:
        say(
            "warning: this folder was begun with another recipe: stages that are complete stay as they are; another "
            "--output_dir makes all anew"
        )


def _frozen_parts(recipe: Recipe, folder: Path, config: ModelConfig, path: Path) -> None:
    cells = {name: initialize(build_component(config, name), recipe.seed) for name in COMPONENTS}

    def run(name: str, phase: Phase) -> None:
        print(f"stage {name}")
        run_stage(folder / name, phase, getattr(recipe, name), {"stage": name, "seed": recipe.seed})

    run("autoencoder", autoencoder_phase(cells, recipe.autoencoder, recipe.seed))
    run("autoencoder_full", autoencoder_phase(cells, recipe.autoencoder_full, recipe.seed))
    scale_latents(cells, recipe.autoencoder_full.size, recipe.seed)
    pass_frames_through(cells["decoder"])
    run("decoder", decoder_phase(cells, recipe.decoder, recipe.clips, recipe.seed))
    run("tower", tower_phase(cells, recipe.tower, config.model.clip.image_size, recipe.seed))
    _write_model(cells, path)


def _write_model(cells: Mapping[str, nn.Cell], path: Path) -> None:
    """All components; the conditioner's encoder is the first stage's and a 1x1 convolution that changes nothing."""
    arrays = {p.name: p.asnumpy() for cell in cells.values() for p in cell.get_parameters()}
    first_stage, condition = (COMPONENTS[name].prefix for name in ("first_stage_encoder", "condition_encoder"))
    for name in list(arrays):
        if name.startswith(f"{first_stage}encoder."):
            arrays[condition + name[len(first_stage) :]] = arrays[name]
    weight = f"{condition}quant_conv.weight"
    arrays[weight] = np.eye(len(arrays[weight]), dtype=np.float32)[:, :, None, None]
    arrays[f"{condition}quant_conv.bias"] = np.zeros_like(arrays[f"{condition}quant_conv.bias"])
    write_safetensors(path, [(name, a.shape, a.dtype) for name, a in arrays.items()], arrays.__getitem__)


def _settings(
    recipe: Recipe, stage: UnetStage, folder: Path, name: str, pretrained: Path, configs: Path
) -> TrainingSettings:
    """What train.py would be told for a stage of the UNet."""
    return load_settings(
        configs / "svd_train.yaml",
        [
            *_overrides(recipe.train, "train."),
            *_overrides(stage.train, "train."),
            f"train.seed={recipe.seed}",
            f"train.pretrained={pretrained}",
            f"train.output_dir={folder / name}",
            f"train.cache={folder / f'{name}_cache'}",
            "train.resume=latest",
            "train.temporal_only=False",
            "train.save=full",
            "train.ema=True",
            "train.dataset.init_args.data_dir=procedural",
            "train.dataset.init_args.metadata=procedural",
            f"train.dataset.init_args.frames={stage.frames}",
            f"train.dataset.init_args.height={stage.size}",
            f"train.dataset.init_args.width={stage.size}",
        ],
    )


def _unet_stage(
    recipe: Recipe, name: str, stage: UnetStage, settings: TrainingSettings, config: ModelConfig, folder: Path
) -> None:
    """One run of train.py's loop on procedural clips."""

    def data(train: Train) -> tuple[dict[tuple[int, int], ProceduralClips], ...]:
        size = stage.size, stage.size
        return tuple(
            {size: ProceduralClips(count, stage.frames, stage.size, recipe.clips.fps, recipe.clips.most_bucket, seed)}
            for count, seed in ((stage.clips, recipe.seed), (train.validation.clips, recipe.seed + _HELD_OUT))
        )

    weights = folder / name / "weights" / "full_ema.safetensors"
    saved = checkpoints(folder / name / "checkpoints")
    # Weights that are older than the last checkpoint: the run was killed between the two, and exports them now.
    whole = saved and weights.exists() and weights.stat().st_mtime_ns >= saved[-1].stat().st_mtime_ns
    if not (whole and step_of(saved[-1]) >= stage.train["max_steps"]):
        print(f"stage {name}")
        status = loop.train(settings, config, ["pretrain_tiny.py"], data)
        if step_of(checkpoints(folder / name / "checkpoints")[-1]) < stage.train["max_steps"]:
            raise Stopped(str(folder / name), status)


def _overrides(section: dict[str, Any], prefix: str) -> list[str]:
    """Nested settings -> ["train.loss.p_mean=0.7", ...]."""
    found: list[str] = []
    for name, value in section.items():
        if isinstance(value, dict):
            found += _overrides(value, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}={value}")
    return found
