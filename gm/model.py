"""The parts of the model by name: their config sections, their place in a checkpoint, how they are built and loaded."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor
from mindspore.nn.utils import no_init_parameters
from omegaconf import OmegaConf

from gm.checkpoint.match import match
from gm.checkpoint.model_file import open_model
from gm.config import Section, build, check, load_config
from gm.diffusion.denoiser import Denoiser
from gm.errors import UserError
from gm.estimate import held
from gm.networks.clip import ClipVision
from gm.networks.unet import VideoUNet
from gm.networks.vae import VaeDecoder, VaeEncoder
from gm.ops import native
from gm.precision import kept_narrow, numpy_name, parameter_dtype


class Component(NamedTuple):
    """prefix: what the names of its parameters begin with in a checkpoint; build: function of the model's config."""

    prefix: str
    build: Callable


def _vae_section(model):
    return {name: value for name, value in model.vae.items() if name != "temporal_decoder"}


def _first_stage_encoder(model):
    frame_wise = not model.vae.temporal_decoder
    return build(VaeEncoder, _vae_section(model), "model.vae", quant_conv=frame_wise)


def _decoder(model):
    return build(VaeDecoder, _vae_section(model), "model.vae", temporal=model.vae.temporal_decoder)


def _condition_encoder(model):
    return build(VaeEncoder, _vae_section(model), "model.vae", quant_conv=True)


COMPONENTS = {
    "unet": Component("model.diffusion_model.", lambda model: build(VideoUNet, model.unet, "model.unet")),
    "clip": Component(
        "conditioner.embedders.0.open_clip.model.visual.", lambda model: build(ClipVision, model.clip, "model.clip")
    ),
    "condition_encoder": Component("conditioner.embedders.3.encoder.", _condition_encoder),
    "decoder": Component("first_stage_model.", _decoder),
    # Only training encodes its targets with it.
    "first_stage_encoder": Component("first_stage_model.", _first_stage_encoder),
}


_READERS = 4  # threads that read and convert weights; more do not help, as memory is what they wait for
_ALIGNMENT = 64  # bytes; of the widest vectors, and what MindSpore takes without a copy
VAE = {
    "ch": "int", "ch_mult": "list[int]", "num_res_blocks": "int", "z_channels": "int", "temporal_decoder": "bool",
}
SCHEMA = {
    "model": {"unet": Section(VideoUNet), "vae": VAE, "clip": Section(ClipVision)},
    "sampling": {
        "height": "int", "width": "int", "num_frames": "int", "sampling_steps": "int", "min_guidance": "float",
        "max_guidance": "float", "fps": "float", "motion_bucket_id": "float", "noise_aug_strength": "float",
        "decode_chunk_size": "int", "sampler": "str",
    },
}


def load_model_config(path, overrides=()):
    """The config of a model, checked against the networks' signatures before anything is built.

    Raises:
        UserError: every fault of the file at once.
    """
    config = load_config(path, overrides)
    check(config, SCHEMA, path)
    faults = _too_small(config.model) or _width_faults(config.model)
    if faults:
        raise UserError("\n  ".join([f"{path} is invalid:", *faults]))
    return config


def _width_faults(model):
    """Faults that would surface deep inside a network."""
    faults = []
    unet, vae, clip = model.unet, model.vae, model.clip
    widths = {f"model.unet level {i}": unet.model_channels * m for i, m in enumerate(unet.channel_mult)}
    widths.update({f"model.vae level {i}": vae.ch * m for i, m in enumerate(vae.ch_mult)})
    faults += [f"{name} has {n} channels, not a multiple of the 32 norm groups" for name, n in widths.items() if n % 32]
    heads = {n for name, n in widths.items() if "unet" in name and n % unet.num_head_channels}
    if heads:
        faults.append(f"model.unet.num_head_channels {unet.num_head_channels} does not divide {sorted(heads)}")
    if unet.adm_in_channels % 3:
        faults.append(f"model.unet.adm_in_channels {unet.adm_in_channels} must be three equal embeddings")
    if unet.in_channels != 2 * vae.z_channels or unet.out_channels != vae.z_channels:
        faults.append("model.unet takes two latents: in_channels = 2 * out_channels = 2 * z_channels")
    if clip.embed_dim != unet.context_dim:
        faults.append(f"model.clip.embed_dim {clip.embed_dim} must be model.unet.context_dim {unet.context_dim}")
    if clip.width % clip.head_width or clip.image_size % clip.patch_size:
        faults.append("model.clip: head_width must divide width and patch_size must divide image_size")
    return faults


def _too_small(model):
    """Faults of numbers that count something, and of lists that have a level in each place."""
    faults = []
    for part, section in model.items():
        for name, value in section.items():
            where = f"model.{part}.{name}"
            numbers = value if OmegaConf.is_list(value) else [value]
            faults += [f"{where}: {number} must be 1 or more" for number in numbers if not isinstance(number, bool)
                       and number < 1]
            if not numbers and name != "attention_resolutions":
                faults.append(f"{where}: must not be empty")
    return faults


def build_component(config, name):
    """A component without values; its parameters carry their full checkpoint names."""
    component = COMPONENTS[name]
    # Without memory for the values: 9 GB of zeros for SVD, which a long-lived process really gets, page by page, when
    # its allocator hands out used memory again.
    with no_init_parameters():
        cell = component.build(config.model)
    for path, p in cell.parameters_and_names():
        p.name = component.prefix + path
    cell.set_train(False)
    return cell


def expected_parameters(config):
    """{full name: shape} of every parameter of a model, from its config or the path of one."""
    if not hasattr(config, "model"):
        config = load_model_config(config)
    return _shapes(build_component(config, name) for name in COMPONENTS)


def _shapes(cells):
    """{full name: shape} of every parameter of components."""
    return {p.name: tuple(p.shape) for cell in cells for p in cell.get_parameters()}


class Weights:
    """A checkpoint whose keys are accounted for: every parameter of the model is in it with its shape.

    Args:
        config: of the model.
        path, base, use_ema: of the weights, in any layout that `gm.checkpoint.model_file.open_model` reads.

    Raises:
        UserError: a checkpoint that does not fit the config, with the list of all that is wrong.
    """

    def __init__(self, config, path, base=None, use_ema=False):
        self.config = config
        self.checkpoint = open_model(path, base, use_ema)
        # Without values yet; `load` hands each of them out once, as building takes as long as reading half the file.
        self._built = {name: build_component(config, name) for name in COMPONENTS}
        self._shapes = {name: _shapes([cell]) for name, cell in self._built.items()}
        self._sizes = {name: sum(map(math.prod, shapes.values())) for name, shapes in self._shapes.items()}
        self.sources = match(self.checkpoint, _shapes(self._built.values()))

    def size(self, name):
        """Number of values of a component."""
        return self._sizes[name]

    def shape(self, name):
        """Of a parameter, by its full name."""
        return self.checkpoint.shape(self.sources[name])

    def narrow(self):
        """Names of the parameters that `load(..., narrow=True)` leaves in the file's float16."""
        file = self.checkpoint
        return {name for name, source in self.sources.items()
                if file.dtype(source) == np.float16 and kept_narrow(name, file.shape(source))}

    def held(self, name, amp_level="O0", narrow=False):
        """What a component takes when it is loaded so: `gm.estimate.Held`."""
        left, file = self.narrow() if narrow else (), self.checkpoint
        wanted = {p: 2 if p in left or parameter_dtype(p, amp_level) != ms.float32 else 4 for p in self._shapes[name]}
        return held((math.prod(shape), file.dtype(self.sources[p]).itemsize, wanted[p])
                    for p, shape in self._shapes[name].items())

    def load(self, name, amp_level="O0", narrow=False):
        """A component with its values; arguments as of `loading`."""
        loading = self.loading(name, amp_level, narrow)
        while True:
            try:
                next(loading)
            except StopIteration as end:
                return end.value

    def loading(self, name, amp_level="O0", narrow=False):
        """Load a component: a generator of (values so far, values in all) after each tensor; returns the component.

        Where the file has the dtype that the parameter needs, the parameter is the file's memory map itself and costs
        no memory of its own.

        Args:
            name: one of `COMPONENTS`.
            amp_level: "O0" or "O2", see `gm.precision`.
            narrow: leave weights that the file has in float16 so, see `narrow`.
        """
        cell = self._built.pop(name, None)
        cell = build_component(self.config, name) if cell is None else cell
        left = self.narrow() if narrow else ()
        parameters = list(cell.get_parameters())
        dtypes = [ms.float16 if p.name in left else parameter_dtype(p.name, amp_level) for p in parameters]
        with ThreadPoolExecutor(_READERS) as pool:  # all that takes long is done without Python's lock
            values = pool.map(self._read, parameters, self._places(parameters, dtypes))
            done = 0
            try:
                yield done, self._sizes[name]
                for p, dtype, value in zip(parameters, dtypes, values):
                    set_value(p, value, dtype)
                    done += value.size
                    yield done, self._sizes[name]
            finally:
                values.close()  # closed half-way, it reads no more
        return Denoiser(cell) if name == "unet" else cell

    def _places(self, parameters, dtypes):
        """For each parameter an array to read its values into, or None where it can be the file's memory itself."""
        names = [numpy_name(dtype) for dtype in dtypes]
        converted = [self.checkpoint.dtype(self.sources[p.name]).name != name for p, name in zip(parameters, names)]
        arrays = _allocate([(p.shape, name) for p, name, fresh in zip(parameters, names, converted) if fresh])
        return [next(arrays) if fresh else None for fresh in converted]

    def _read(self, p, place):
        if place is None:
            return self.checkpoint.read(self.sources[p.name])
        self.checkpoint.copy_to(self.sources[p.name], place, native.convert)
        return place


def _allocate(wanted):
    """Arrays without values for [(shape, dtype name)], in turn, all in one piece of memory.

    NumPy asks the system for huge pages for arrays of several megabytes: 9 GB in small ones cost 1.6 s instead of 0.6.
    """
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in wanted]
    padded = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
    memory = np.empty(sum(padded) + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    for (shape, dtype), size, taken in zip(wanted, sizes, padded):
        yield memory[start : start + size].view(dtype).reshape(shape)
        start += taken


def set_value(p, array, dtype):
    """Give a parameter an array's values; shares the array's memory where dtype is its own."""
    array = array.astype(numpy_name(dtype), copy=False)
    if p.dtype != dtype:
        p.set_dtype(dtype)
    p.set_data(Tensor(array, dtype) if dtype == ms.bfloat16 else Tensor.from_numpy(array))
