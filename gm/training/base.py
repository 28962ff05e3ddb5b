"""The model that training starts from: a checkpoint, or initial values."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import mindspore as ms
import numpy as np

from gm.checkpoint.delta import fingerprint, sampled_hash
from gm.diffusion.denoiser import Denoiser
from gm.estimate import Held
from gm.model import COMPONENTS, Weights, build_component, expected_parameters, set_value
from gm.networks.init import initial_values
from gm.precision import parameter_dtype


class PretrainedBase:
    """A checkpoint; arguments as of `gm.model.Weights`. UserError if it does not fit the config."""

    def __init__(self, config, path, base=None, use_ema=False):
        self.weights = Weights(config, path, base, use_ema)
        self.shapes = {name: self.weights.checkpoint.shape(source) for name, source in self.weights.sources.items()}

    def load(self, component, amp_level):
        """A component of `gm.model.COMPONENTS` with its values."""
        return self.weights.load(component, amp_level)

    def held(self, component, amp_level):
        """What a component takes in memory: `gm.estimate.Held`."""
        return self.weights.held(component, amp_level)

    def read(self, name):
        """The stored values of a parameter, in the dtype of the file."""
        return self.weights.checkpoint.read(self.weights.sources[name])

    def dtype(self, name):
        return self.weights.checkpoint.dtype(self.weights.sources[name])

    @cached_property
    def record(self):
        """What tells this model from another one, {str: str}."""
        return fingerprint(self.weights)

    def describe(self):
        file = self.weights.checkpoint
        return f"{Path(file.path).resolve()}: {file.description}"


class RandomBase:
    """Initial values from a seed."""

    def __init__(self, config, seed):
        self.config, self.seed = config, seed
        self.shapes = expected_parameters(config)

    def load(self, component, amp_level):
        """A component of `gm.model.COMPONENTS` with its values."""
        cell = build_component(self.config, component)
        for p in cell.get_parameters():
            set_value(p, self.read(p.name), parameter_dtype(p.name, amp_level))
        return Denoiser(cell) if component == "unet" else cell

    def held(self, component, amp_level):
        """What a component takes in memory: `gm.estimate.Held`."""
        parameters = build_component(self.config, component).get_parameters()
        return Held(sum(p.size * (2 if parameter_dtype(p.name, amp_level) != ms.float32 else 4) for p in parameters))

    def read(self, name):
        return initial_values(name, self.shapes, self.seed)

    def dtype(self, name):
        return np.dtype(np.float32)

    @property
    def record(self):
        return {"base_name": "initial values", "base_size": "0", "base_hash": f"seed {self.seed}"}

    def describe(self):
        return f"initial values, seed {self.seed}"


def encoders_hash(base):
    """What tells the encoders of this base from others: `gm.checkpoint.delta.sampled_hash` of their tensors."""
    prefixes = tuple(COMPONENTS[name].prefix for name in ("clip", "condition_encoder"))
    first_stage = COMPONENTS["first_stage_encoder"].prefix + "encoder."
    return sampled_hash([name for name in base.shapes if name.startswith((*prefixes, first_stage))], base.read)


def open_base(config, train):
    """The base that the section `train` of the settings names: a checkpoint, or a seed where there is none."""
    if train.pretrained is None:
        return RandomBase(config, train.seed)
    return PretrainedBase(config, train.pretrained, train.base, train.use_ema)
