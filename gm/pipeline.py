"""From a picture to a video: `ImageToVideo` loads a checkpoint once and is called as often as you like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

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
from gm.options import Options
from gm.parts import Parts
from gm.sizes import check_picture, embedding_width, latent_shape, vae_factor


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


def require_fitting(conditioning: Conditioning, noise: np.ndarray) -> None:
    """Raise UserError unless a conditioning is of as many frames of the same size as a video's noise (t, z, h, w):
    NumPy would repeat a single frame, and no other fault would be plain."""
    given, needed = (
        f"{len(part)} frames with latents of {part.shape[2]}x{part.shape[3]}" for part in (conditioning.concat, noise)
    )
    if given != needed:
        raise UserError(
            f"a conditioning of {given}: this video has {needed}; give `condition` a picture of its size and the same "
            "options"
        )


def require_alike(
    images: Sequence[np.ndarray],
    options: Sequence[Options],
    conditionings: Sequence[Conditioning],
    ends: Sequence[Conditioning | None],
) -> None:
    """Raise UserError unless videos can be sampled together, with the first one's options. Arguments: see
    `ImageToVideo.steps_together`."""
    counts = [len(each) for each in (images, options, conditionings, ends)]
    if min(counts) == 0 or len(set(counts)) > 1:
        given = "{} pictures, {} options, {} conditionings, {} ends".format(*counts)
        raise UserError(f"{given}: several videos at once need one of each for every video")
    other = [
        f"{field.name} {getattr(options[0], field.name)} and {getattr(each, field.name)}"
        for each in options[1:]
        for field in fields(each)
        if field.name != "seed" and getattr(each, field.name) != getattr(options[0], field.name)
    ]
    if other:
        raise UserError(f"videos that are sampled at once must have the same options but for the seed, not {other[0]}")
    if len({each is None for each in ends}) > 1:
        raise UserError("videos that are sampled at once end with a picture each, or none of them does")


class ImageToVideo(Parts):
    """Image to video with one checkpoint: arguments and what is loaded when as of `gm.parts.Parts`."""

    def options(self, **changes: Any) -> Options:
        """The config's `Options` with changes; None leaves a value as it is. UserError for what cannot be."""
        options = self.config.sampling.options(**changes)
        self._check(options)
        return options

    def _check(self, options: Options) -> None:
        if self.low_memory and options.cache_interval > 1 and options.guided():
            raise UserError(
                "low_memory computes the halves of guidance apart, which DeepCache cannot tell from each "
                "other: give one of low_memory and cache_interval, or no guidance (both scales 1)"
            )

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
        encoder = self._tiled("condition_encoder", options.encode_tile)
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
        encoder = self._tiled("condition_encoder", options.encode_tile)
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

        Raises:
            UserError: as of `steps`; options that differ in more than the seed; not one of each for every video.
        """
        require_alike(images, options, conditionings, ends)
        for image in images:
            check_picture(image, self.config.model)
        self._check(options[0])
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

        def denoiser_of(conditionings: Sequence[Conditioning]) -> Denoise:
            for each, noise in zip(conditionings, noises):
                require_fitting(each, noise)
            joined, denoiser = conditionings[0].join(*conditionings[1:]), self.denoiser
            if options.cache_interval > 1:
                denoiser = DeepCache(denoiser, options.cache_interval)
            return guided(denoiser, joined, scales, options.num_frames, *limits, not self.low_memory, self.pair)

        denoise_all = denoiser_of(conditionings)
        if ends[0] is not None:
            from_the_end = denoiser_of(ends)
            if options.num_frames == 1:
                raise UserError("a video of one frame has no last one beside the first: give num_frames 2 or more")
            denoise_all = between(denoise_all, from_the_end, options.num_frames)
        if known is not None:
            if known.shape[1:] != noises[0].shape[1:] or not 0 < len(known) <= len(noises[0]):
                raise UserError(
                    f"known latents of shape {known.shape}: they must be of the first of {len(noises[0])} frames of "
                    f"shape {noises[0].shape[1:]}"
                )
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
        decoder = self._tiled("decoder", options.decode_tile)
        for pixels in decoded_chunks(decoder, scaled, options.decode_chunk_size):
            require_finite(pixels, "the decoded frames")
            yield pixels
        if self.low_memory:
            del decoder
            self.release("decoder")

    def _tiled(self, name: str, pixels: int | None) -> Any:
        """The component `name` in tiles of so many pixels; or itself, where that is None."""
        if pixels is None:
            return self.component(name)
        from gm.networks.tiles import TiledDecoder, TiledEncoder

        kind = TiledDecoder if name == "decoder" else TiledEncoder
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
