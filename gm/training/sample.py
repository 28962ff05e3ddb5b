"""A video of one picture every so many steps: what the weights of the moment make of it."""

from __future__ import annotations

from pathlib import Path

from gm.data.images import fit_image, load_image
from gm.data.outputs import make_folder
from gm.data.videos import to_uint8, write_video
from gm.diffusion.conditioning import Conditioning
from gm.diffusion.denoiser import Denoiser
from gm.model_config import ModelConfig
from gm.pipeline import ImageToVideo
from gm.results import made_by
from gm.sizes import nearest_size
from gm.training.settings import Train, precision, sizes
from gm.weights import ModelWeights


class SampleVideo:
    """Samples with the denoiser that is being trained; the other components are loaded for it and let go again.

    Args:
        config, base: of the run. denoiser: `gm.diffusion.denoiser.Denoiser`. train: the section train.

    Raises:
        UserError: a picture that cannot be read.
    """

    def __init__(self, config: ModelConfig, base: ModelWeights, denoiser: Denoiser, train: Train) -> None:
        data = train.dataset.init_args
        assert train.sample.image is not None  # without one no videos are asked for
        image = load_image(train.sample.image)
        self.image = fit_image(image, *nearest_size(image.shape[:2], sizes(data)))
        self.pipeline = ImageToVideo(config, base, amp_level=precision(train))
        self.pipeline.components["denoiser"] = denoiser
        self.options = self.pipeline.options(seed=train.sample.seed, num_frames=data.frames)
        self.conditioning: Conditioning | None = None

    def write(self, folder: Path, step: int) -> Path:
        """Sample, decode and write <folder>/step-<n>.mp4; returns its path."""
        pipeline, options = self.pipeline, self.options
        if self.conditioning is None:
            self.conditioning = pipeline.condition(self.image, options)
            pipeline.release("clip", "condition_encoder")
        for done in pipeline.steps(self.image, options, self.conditioning):
            latents = done.latents
        frames = to_uint8(pipeline.decode(latents, options))
        pipeline.release("decoder")
        make_folder(folder)
        path = folder / f"step-{step:08d}.mp4"
        write_video(frames, path, options.fps, made_by("in training", f"of step {step}"))
        return path
