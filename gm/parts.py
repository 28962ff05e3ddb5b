"""The parts of a pipeline: which weights they have, when they are loaded, and when they are let go."""

from __future__ import annotations

import gc
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindspore import nn

from gm.checkpoint.delta import Deltas, apply_delta, unet_shapes
from gm.checkpoint.published import checkpoints_folder, find_checkpoint
from gm.errors import UserError
from gm.model import build_component, load_model_config
from gm.model_config import ModelConfig
from gm.precision import check_amp_level
from gm.weights import ModelWeights, Weights

if TYPE_CHECKING:
    from gm.ops.pair import Pair

PARTS = {"clip": "clip", "condition_encoder": "condition_encoder", "denoiser": "unet", "decoder": "decoder"}


class Parts:
    """The parts of a model with one checkpoint; they are loaded when they are first needed.

    Args:
        config: path of a model's YAML file, or one already loaded by `gm.model.load_model_config`.
        checkpoint: path of weights in any layout (`gm.checkpoint.model_file`); all keys are accounted for at once, the
            components are loaded when they are first needed. Or `gm.weights.ModelWeights` of any kind. None: the
            weights of the config's name where the command line looks for them (svd_tiny's come with the program).
        delta: changes put on the checkpoint's weights: what train.py saved alone (`--train.save=delta`), LoRA files;
            one path or several with strengths, as `gm.checkpoint.delta_file.parse_deltas` reads them.
        amp_level: "O0" float32, "O2" float16 for UNet and CLIP, or what `gm.precision.level` returns.
        low_memory: let every component go when it has done its part for a video, compute the two halves of guidance one
            after the other, and leave float16 weights so until a layer needs them in float32. The same result up to
            rounding, slower; the next video loads again.
        base, use_ema: of the checkpoint, see `gm.checkpoint.model_file.open_model`.
        pair: `gm.ops.pair.Pair` of two devices that compute one half of guidance each, or None.

    `warnings` holds sentences that the user should see (a delta of another checkpoint).

    Call `gm.ops.set_device` before making one.
    """

    def __init__(
        self,
        config: ModelConfig | str | Path,
        checkpoint: ModelWeights | str | Path | None = None,
        delta: Any = None,
        amp_level: str = "O0",
        low_memory: bool = False,
        base: str | Path | None = None,
        use_ema: bool = False,
        pair: Pair | None = None,
    ) -> None:
        self.config = load_model_config(config) if isinstance(config, (str, Path)) else config
        if checkpoint is None:
            if not isinstance(config, (str, Path)):
                raise UserError("which weights? A config that is loaded already has no name: give the checkpoint too")
            checkpoint = find_checkpoint(Path(config).stem, checkpoints_folder())
        self.weights = (
            checkpoint if isinstance(checkpoint, ModelWeights) else Weights(self.config, checkpoint, base, use_ema)
        )
        self.deltas = Deltas(delta, unet_shapes(build_component(self.config, "unet")) if delta else {})
        self.warnings = self.deltas.warnings(self.weights if isinstance(self.weights, Weights) else None)
        check_amp_level(amp_level)
        self.amp_level = amp_level
        self.low_memory = low_memory
        self.pair = pair
        self.components: dict[str, nn.Cell] = {}  # those of `PARTS` that are loaded: {name: cell}
        self._begun: dict[str, Any] = {}  # those that are read ahead: (progress so far, generator of the rest)
        self._made: dict[str, Any] = {}  # what was made of a component, and goes with it, by the component's name

    def sources(self) -> list[str]:
        """Lines that say what the weights were recognised as."""
        return [self.weights.describe(), *(f"{delta.path}: {delta.description}" for delta in self.deltas)]

    def narrow(self) -> set[str]:
        """Names of the parameters that stay in float16 whatever amp_level says; on them depends how it is compiled."""
        if not self.low_memory:
            return set()
        return self.weights.narrow().difference(self.deltas.names())

    def load(self, name: str) -> Generator[tuple[int, int], None, None]:
        """Load a component of `PARTS` that is not there yet: a generator of (values so far, values in all)."""
        if name in self.components:
            return
        if self.low_memory and name == "decoder":
            self.release("denoiser")
        told, loading = self._begun.pop(name, None) or ([], self._loading(name))
        yield from told
        component = yield from loading
        if name == "denoiser":
            apply_delta(component, self.deltas, amp_level=self.amp_level, read=self.weights.read)
        self.components[name] = component

    def load_ahead(self, name: str) -> None:
        """Let threads read a component of `PARTS` while something else is done; `load` then has less to wait for.

        Nothing happens with low_memory, which holds one component at a time.
        """
        if not self.low_memory and name not in self.components and name not in self._begun:
            loading = self._loading(name)
            self._begun[name] = [next(loading), next(loading)], loading  # it reads from the second on

    def _loading(self, name: str) -> Generator[tuple[int, int], None, nn.Cell]:
        return self.weights.loading(PARTS[name], self.amp_level, self.low_memory)

    def component(self, name: str) -> nn.Cell:
        """A component of `PARTS`, a cell; it is loaded where it is not there yet."""
        for _ in self.load(name):
            pass
        return self.components[name]

    def release(self, *names: str) -> None:
        """Forget components of `PARTS`: they are loaded anew when needed."""
        for name in names:
            self.components.pop(name, None)
            self._made.pop(name, None)
        gc.collect()  # cells hold one another

    @property
    def clip(self) -> nn.Cell:
        return self.component("clip")

    @property
    def condition_encoder(self) -> nn.Cell:
        return self.component("condition_encoder")

    @property
    def denoiser(self) -> nn.Cell:
        return self.component("denoiser")

    @property
    def decoder(self) -> nn.Cell:
        return self.component("decoder")
