"""From a picture to a video: `ImageToVideo` loads a checkpoint once and is called as often as you like."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import numpy as np
from mindspore import nn

from gm.checkpoint.delta import Deltas, apply_delta, unet_shapes
from gm.checkpoint.published import checkpoints_folder, find_checkpoint
from gm.data.images import to_signed
from gm.data.videos import to_uint8
from gm.diffusion.between import between
from gm.diffusion.conditioning import Conditioning, condition, encode_mean, encode_picture
from gm.diffusion.deepcache import DeepCache
from gm.diffusion.guidance import guided
from gm.diffusion.latents import SCALE_FACTOR, decoded_chunks
from gm.diffusion.sampling import SAMPLERS, Denoise, Draws, Step, initial_latents
from gm.diffusion.schedules import SCHEDULES
from gm.diffusion.seam import continued
from gm.errors import UserError
from gm.model import build_component, load_model_config
from gm.model_config import ModelConfig
from gm.networks.tiles import TiledDecoder, TiledEncoder
from gm.options import Options
from gm.precision import check_amp_level
from gm.sizes import check_picture, embedding_width, latent_shape, vae_factor
from gm.weights import ModelWeights, Weights

if TYPE_CHECKING:
    from gm.ops.pair import Pair

PARTS = {"clip": "clip", "condition_encoder": "condition_encoder", "denoiser": "unet", "decoder": "decoder"}


def draw_noise(
    options: Options,
    height: int,
    width: int,
    latent_shape: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Unit noise for one video: (1, 3, height, width) for the picture and (t, *latent_shape) for the latents.

    From NumPy's generator, so that every device starts from the same numbers; the picture's noise is drawn first.
    """
    generator = np.random.default_rng(options.seed)
    pixels = generator.standard_normal((1, 3, height, width), np.float32)
    return pixels, generator.standard_normal((options.num_frames, *latent_shape), np.float32)


def require_finite(array: np.ndarray, what: str) -> None:
    """Raise UserError unless every value is finite: such a result shows nothing and must not be written."""
    wrong = array.size - np.count_nonzero(np.isfinite(array))
    if wrong:
        raise UserError(
            f"{what}: {wrong:,} of {array.size:,} values are not finite. Either the weights are damaged, or a number "
            "overflowed: try --amp_level=O0 (float32) and settings nearer to the defaults"
        )


class ImageToVideo:
    """Image to video with one checkpoint.

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
        if checkpoint is None:
            if not isinstance(config, (str, Path)):
                raise UserError("which weights? A config that is loaded already has no name: give the checkpoint too")
            checkpoint = find_checkpoint(Path(config).stem, checkpoints_folder())
        self.config = load_model_config(config) if isinstance(config, (str, Path)) else config
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

    def options(self, **changes: Any) -> Options:
        """The config's `Options` with changes; None leaves a value as it is. UserError for what cannot be."""
        options = self.config.sampling.options().changed(**changes)
        self._check(options)
        return options

    def _check(self, options: Options) -> None:
        if self.low_memory and options.cache_interval > 1 and options.guided():
            raise UserError(
                "low_memory computes the halves of guidance apart, which DeepCache cannot tell from each "
                "other: give one of low_memory and cache_interval, or no guidance (both scales 1)"
            )

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
            apply_delta(component, self.deltas, amp_level=self.amp_level)
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

    def noise(self, image: np.ndarray, options: Options) -> tuple[np.ndarray, np.ndarray]:
        """The seed's noise for a picture uint8 (h, w, 3): see `draw_noise`."""
        height, width = image.shape[:2]
        return draw_noise(options, height, width, latent_shape(self.config.model, (height, width)))

    def condition(
        self,
        image: np.ndarray,
        options: Options,
        pixel_noise: np.ndarray | None = None,
        keep: bool = False,
        latents: np.ndarray | None = None,
    ) -> Conditioning:
        """`Conditioning` of all frames from a picture uint8 (h, w, 3), h and w multiples of `size_multiple`.

        pixel_noise: unit noise float32 (1, 3, h, w); None draws the seed's. keep: with low_memory too the encoders
        stay, for another picture. latents: clean ones float32 (z, h/8, w/8) of the picture, scaled, for the network to
        see, with the noise, instead of those that encoding it gives.
        """
        check_picture(image, self.config.model)
        if pixel_noise is None:
            pixel_noise = self.noise(image, options)[0]
        encoder = self._tiled("condition_encoder", TiledEncoder, options.encode_tile)
        context, concat = encode_picture(
            self.clip,
            encoder,
            to_signed(image),
            pixel_noise,
            options.noise_aug_strength,
            self.config.model.clip.image_size,
        )
        if latents is not None:  # what the noise adds to them stays
            concat += latents[None] / np.float32(SCALE_FACTOR) - encode_mean(encoder, to_signed(image))
        if self.low_memory and not keep:
            self.release("clip", "condition_encoder")
        width = embedding_width(self.config.model)
        numbers = options.fps, options.motion_bucket_id, options.noise_aug_strength
        return condition(context, concat, *numbers, width, options.num_frames)

    def encode(self, image: np.ndarray, options: Options) -> np.ndarray:
        """The latents float32 (z, h/8, w/8) of a picture uint8 (h, w, 3) without noise, scaled."""
        encoder = self._tiled("condition_encoder", TiledEncoder, options.encode_tile)
        return encode_mean(encoder, to_signed(image))[0] * np.float32(SCALE_FACTOR)

    def steps(
        self,
        image: np.ndarray,
        options: Options,
        conditioning: Conditioning | None = None,
        noise: np.ndarray | None = None,
        end: Conditioning | None = None,
        known: np.ndarray | None = None,
    ) -> Iterator[Step]:
        """Sample the latents of one video: a generator of `gm.diffusion.sampling.Step`, one after each step.

        Args:
            image: uint8 (h, w, 3), h and w multiples of `size_multiple`.
            options: `Options`.
            conditioning: what `condition` returned, to use it again; None computes it.
            noise: unit noise float32 (t, z, h/8, w/8) to start from; None draws the seed's.
            end: what `condition` returned for the picture that the video ends with (`gm.diffusion.between`), or None.
            known: clean latents float32 (o, z, h/8, w/8) of its first frames (`gm.diffusion.seam`), or None.
        """
        check_picture(image, self.config.model)
        self._check(options)
        pixel_noise, latent_noise = self.noise(image, options)
        if conditioning is None:
            conditioning = self.condition(image, options, pixel_noise)
        if noise is not None:
            if noise.shape != latent_noise.shape:
                raise UserError(f"noise of shape {noise.shape}: this video needs {latent_noise.shape}")
            latent_noise = noise.astype(np.float32)
        yield from self._steps([(options, conditioning, latent_noise, end)], known)

    def steps_together(
        self,
        images: Sequence[np.ndarray],
        options: Sequence[Options],
        conditionings: Sequence[Conditioning],
        ends: Sequence[Conditioning | None],
    ) -> Iterator[Step]:
        """Sample several videos of one size at once: a generator of `Step`, whose arrays have the frames of the first
        video, then of the next.

        Args:
            images: uint8 (h, w, 3) of each. options: `Options` of each, the same but for the seed.
            conditionings, ends: what `condition` returned for each, as of `steps`; ends of None for all, or for none.
        """
        noises = [self.noise(image, each)[1] for image, each in zip(images, options)]
        yield from self._steps(list(zip(options, conditionings, noises, ends)))

    def _steps(
        self,
        videos: list[tuple[Options, Conditioning, np.ndarray, Conditioning | None]],
        known: np.ndarray | None = None,
    ) -> Iterator[Step]:
        """videos: (options, conditioning, noise, end or None) of each."""
        every, conditionings, noises, ends = zip(*videos)
        options = every[0]
        scales = np.tile(options.guidance_scales(), (len(videos), 1, 1, 1))
        limits = options.guidance_sigma_min, options.guidance_sigma_max
        denoiser = self.denoiser if options.cache_interval == 1 else self._cached(options.cache_interval)

        def denoiser_of(conditionings: Sequence[Conditioning]) -> Denoise:
            joined = conditionings[0].join(*conditionings[1:])
            return guided(denoiser, joined, scales, options.num_frames, *limits, not self.low_memory, self.pair)

        denoise_all = denoiser_of(conditionings)
        if ends[0] is not None:
            denoise_all = between(denoise_all, denoiser_of(ends), options.num_frames)
        if known is not None:
            denoise_all = continued(denoise_all, known)
        sigmas = SCHEDULES[options.schedule](options.sampling_steps)
        # Of the noise that some samplers draw in every step.
        random = Draws([np.random.default_rng((each.seed, 1)) for each in every])
        latents = initial_latents(np.concatenate(noises), sigmas)
        for step in SAMPLERS[options.sampler](denoise_all, latents, sigmas, random):
            require_finite(step.latents, f"the latents after step {step.index} of {step.total}")
            yield step

    def decode(self, latents: np.ndarray, options: Options) -> np.ndarray:
        """Latents of the last step, float32 (t, z, h/8, w/8) -> pixels float32 (t, 3, h, w), about [-1, 1]."""
        return np.concatenate(list(self.decode_chunks(latents, options)))

    def decode_chunks(self, latents: np.ndarray, options: Options) -> Iterator[np.ndarray]:
        """`decode` as a generator of the pixels of options.decode_chunk_size frames."""
        scaled = latents / np.float32(SCALE_FACTOR)
        decoder = self._tiled("decoder", TiledDecoder, options.decode_tile)
        for pixels in decoded_chunks(decoder, scaled, options.decode_chunk_size):
            require_finite(pixels, "the decoded frames")
            yield pixels
        if self.low_memory:
            del decoder
            self.release("decoder")

    def _cached(self, interval: int) -> DeepCache:
        """`DeepCache` of the denoiser, for a video."""
        if "denoiser" not in self._made:
            self._made["denoiser"] = DeepCache(self.denoiser)
        return self._made["denoiser"].start(interval)

    def _tiled(self, name: str, kind: Callable, pixels: int | None) -> Any:
        """The component `name` as a `kind`, with tiles of so many pixels; or itself, where that is None."""
        if pixels is None:
            return self.component(name)
        tile = int(pixels) // vae_factor(self.config.model)
        if name not in self._made or self._made[name].tile != tile:
            self._made[name] = kind(self.component(name), tile)
        return self._made[name]

    def __call__(self, image: np.ndarray, options: Options | None = None, **changes: Any) -> np.ndarray:
        """Picture uint8 (h, w, 3) -> frames uint8 (t, h, w, 3), with the config's options, or `options`, and changes to
        them; None leaves a value as it is."""
        options = (options or self.options()).changed(**changes)
        for step in self.steps(image, options):
            latents = step.latents
        return to_uint8(self.decode(latents, options))
