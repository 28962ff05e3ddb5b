"""A model on its device, to be kept for many jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gm import ops
from gm.checkpoint.identity import identity
from gm.console import versions
from gm.options import ModelSettings
from gm.pipeline import ImageToVideo
from gm.precision import level
from gm.results import made_by
from gm.settings import plain, recorded
from gm.sharing import launcher

if TYPE_CHECKING:
    from gm.ops.pair import Pair


class Model:
    """A pipeline on its device, to be kept for many jobs.

    Args:
        settings: `gm.options.ModelSettings`.

    Raises:
        UserError: a config, checkpoint or device that cannot be.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        ops.set_device(settings.device_target, settings.mode, settings.fast_float32)
        self.attention_scores = ops.set_memory_budget(settings.memory_budget)
        self.pair: Pair | None = None
        if settings.guidance_devices > 1 and launcher.worker() is not None:  # else it is but estimated
            from gm.ops.pair import Pair

            self.pair = Pair()
        self.pipeline = ImageToVideo(
            settings.config,
            settings.checkpoint,
            settings.delta,
            level(settings.amp_level, settings.dtype),
            settings.low_memory,
            settings.base,
            settings.use_ema,
            self.pair,
        )
        # {path: its `identity`} as they were opened: the names may stand for others when a video is written.
        files = *self.pipeline.weights.files(), *self.pipeline.deltas.files()
        self.files = {str(path.resolve()): identity(path) for path in files}
        self.compiled: set = set()  # shapes of videos that the graph was compiled for
        # What its videos' metadata say.
        self.about = made_by(Path(settings.config).stem, Path(settings.checkpoint).name)
        self.cached = False  # whether the graphs are there from an earlier run

    def warnings(self) -> list[str]:
        """Sentences that the user should see."""
        found = []
        if self.settings.amp_level == "O2" and ops.device() == "CPU":
            found.append("CPUs compute float16 slowly and with more memory: O2 is for NPUs and GPUs")
        return found + self.pipeline.warnings

    def record(self) -> dict[str, Any]:
        """What of the model decides anything, for the JSON file."""
        return {
            **recorded(self.settings),
            "config": str(self.settings.config),
            "delta": self.pipeline.deltas.record(),
            "weights": self.files,
            "networks": plain(self.pipeline.config.model),
            "attention_scores": self.attention_scores,
            "device_target": ops.device(),
            "versions": versions(),
        }
