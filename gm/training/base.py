"""The model that training starts from: a checkpoint, or initial values."""

from __future__ import annotations

from gm.checkpoint.delta import sampled_hash
from gm.model import COMPONENTS
from gm.model_config import ModelConfig
from gm.training.settings import Train
from gm.weights import InitialWeights, ModelWeights, Weights


def encoders_hashes(base: ModelWeights) -> tuple[str, str]:
    """What tells the encoders of this base from others: `gm.checkpoint.delta.sampled_hash` of their tensors, which
    older caches have alone, and the base's `values_hash` of them."""
    prefixes = tuple(COMPONENTS[name].prefix for name in ("clip", "condition_encoder"))
    first_stage = COMPONENTS["first_stage_encoder"].prefix + "encoder."
    names = [name for name in base.shapes if name.startswith((*prefixes, first_stage))]
    return sampled_hash(names, base.read), base.values_hash(names)


def open_base(config: ModelConfig, train: Train) -> ModelWeights:
    """The `gm.weights.ModelWeights` that the section `train` of the settings names: a checkpoint's, or, where there is
    none, those of a seed."""
    if train.pretrained is None:
        return InitialWeights(config, train.seed)
    return Weights(config, train.pretrained, train.base, train.use_ema)
