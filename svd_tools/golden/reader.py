"""Golden files: `X.safetensors` with tensors under w/ in/ out/ mid/ grad/ and `X.json` with everything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from gm.errors import UserError


class Golden:
    """One file. `weights`, `inputs`, `outputs`, `mids` (activations) and `grads` are {name: array}; `meta` is the json.

    `grad_norms`: {what the names of a loss's gradients begin with: {parameter: norm of its gradient}}.

    Raises:
        UserError: a file that is missing, unreadable or not of this format.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        sidecar = self.path.with_suffix(".json")
        try:
            tensors = load_file(self.path)
            self.meta = json.loads(sidecar.read_text())
            self.kind = self.meta["kind"]
        except FileNotFoundError as error:
            raise UserError(f"golden file: {error.filename or error} does not exist") from None
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"golden file {self.path}: not a golden file ({error})") from None
        groups: dict[str, dict[str, np.ndarray]] = {"w": {}, "in": {}, "out": {}, "mid": {}, "grad": {}}
        scales = self.meta.get("weight_scales", {})
        for key, value in tensors.items():
            group, _, name = key.partition("/")
            if group not in groups or not name:
                raise UserError(f"golden file {self.path}: unknown entry {key!r}")
            # Weights are integers times a power of two, exact in float32.
            groups[group][name] = value.astype(np.float32) * np.float32(scales[name]) if group == "w" else value
        self.weights, self.inputs, self.outputs, self.mids, self.grads = groups.values()
        norms = self.meta.get("grad_norms", {})
        if any(isinstance(values, dict) for values in norms.values()):  # of several losses, by their names
            self.grad_norms = {f"{loss}/": values for loss, values in norms.items()}
        else:
            self.grad_norms = {"": norms} if norms else {}

    def other(self, file_name: str) -> Golden:
        """The golden file of that name in the same folder."""
        return Golden(self.path.parent / file_name)


def below(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The entries whose names start with prefix, without it."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
