"""One file of changes: read in whatever naming it has, and checked against the model before anything is changed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gm.checkpoint.formats import open_checkpoint
from gm.checkpoint.lora import OTHERS, Names, adapters, find_changes, product, scale_of, unread_kind
from gm.checkpoint.rules import original_name
from gm.errors import UserError

_LISTED = 10
# What programs call the file that they write into a folder.
_IN_FOLDERS = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "delta.safetensors")
_SETTINGS = "adapter_config.json"  # which PEFT writes beside its file, and nowhere else says alpha


def parse_deltas(text: Any) -> list[tuple[Path, float]]:
    """[(path, strength)] of an option's value: one file, `file:0.8`, or `[a.safetensors:0.8,b.safetensors]`.

    A file whose name is just that comes first. UserError for a strength that is no number, or an empty list.
    """
    if isinstance(text, (list, tuple)):
        return [item if isinstance(item, tuple) else _with_strength(item) for item in text]
    text = os.fspath(text)
    listed = text.startswith("[") and text.endswith("]") and not Path(text).exists()
    items = [item.strip().strip("'\"") for item in text[1:-1].split(",")] if listed else [text]
    if not all(items):
        raise UserError(f"delta {text!r}: name files, as in [a.safetensors:0.8,b.safetensors]")
    return [_with_strength(item) for item in items]


def _with_strength(item: Any) -> tuple[Path, float]:
    path, colon, number = os.fspath(item).rpartition(":")
    if not colon or Path(item).exists():
        return Path(item), 1.0
    try:
        strength = float(number)
    except ValueError:
        return Path(item), 1.0
    if not math.isfinite(strength):
        raise UserError(f"delta {item!r}: the strength must be a finite number")
    return Path(path), strength


class _LowRank(NamedTuple):
    down: str
    up: str
    scale: float


class Delta:
    """One file of changes that fits a model.

    Args:
        path: the file, or a folder as diffusers and PEFT write it.
        shapes: {full original name: shape} of the UNet. known: its `Names`.
        strength: what every change is multiplied by.

    Attributes: `low_rank` {weight: its two tensors and their factor}, `whole` {parameter: its tensor's name},
    `description` in words, `warnings`, sentences for the user, `files`, all that was read.
    Raises UserError if the file is damaged, or holds what the model does not have.
    """

    def __init__(
        self,
        path: str | Path,
        shapes: dict[str, tuple[int, ...]],
        known: Names,
        strength: float = 1.0,
    ) -> None:
        path = Path(path)
        inside = [path / name for name in _IN_FOLDERS if (path / name).is_file()] if path.is_dir() else []
        self.file = open_checkpoint(inside[0] if inside else path)
        self.path, self.strength, self.metadata = path, strength, self.file.metadata
        self._faults: list[str] = []
        cleaned = self._cleaned()
        found, others, naming = find_changes(cleaned, known)
        self.warnings: list[str] = []
        self.files = self.file.files()
        if "PEFT" in naming:
            self._read_settings(self.file.path.with_name(_SETTINGS))
        self._check_kind(cleaned)
        self.low_rank = {
            name: change
            for name, parts in found.items()
            for change in [self._low_rank(name, parts, cleaned, shapes)]
            if change
        }
        self.whole = self._whole(others, cleaned, known, shapes)
        self._raise()
        ranks = sorted({self.file.shape(change.down)[0] for change in self.low_rank.values()})
        words = [f"{len(self.whole)} trained tensors"] if self.whole else []
        if ranks:
            shown = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
            words.append(f"LoRA in {naming} naming, {len(self.low_rank)} layers, rank {shown}")
        self.description = " and ".join(words) + ("" if strength == 1 else f", strength {strength:g}")

    def _cleaned(self) -> dict[str, str]:
        """{name without what wrappers add to it: name in the file}."""
        found: dict[str, str] = {}
        for name in self.file.names():
            first = found.setdefault(original_name(name), name)
            if first != name:
                self._fault(f"{first} and {name}: the same under two names")
        return found

    def _read_settings(self, path: Path) -> None:
        """PEFT's settings in a file of their own, to where diffusers has them."""
        if "lora_adapter_metadata" in self.metadata or "lora_alpha" in self.metadata:
            return
        try:
            self.metadata = {**self.metadata, "lora_adapter_metadata": path.read_text("utf-8")}
            self.files.append(path)
        except FileNotFoundError:
            if any(name.startswith("base_model.model.") for name in self.file.names()):  # PEFT itself wrote it
                self.warnings.append(
                    f"{self.path} does not say how strong its changes are (alpha), as its {_SETTINGS} is not beside "
                    "it: they are taken as they are"
                )
        except (OSError, ValueError) as error:
            self._fault(f"cannot read {path}: {error}")

    def _check_kind(self, names: Iterable[str]) -> None:
        """A fault for each reason why the file as a whole is not one plain LoRA."""
        given = adapters(names)
        if len(given) > 1:
            listed = ", ".join(name or "one without a name" for name in given)
            self._fault(f"several of PEFT's adapters are in it ({listed}): save the one that you want alone")
        unread = unread_kind(self.metadata)
        if unread:
            self._fault(unread)

    def _low_rank(
        self,
        name: str,
        parts: dict[str, list[str]],
        cleaned: dict[str, str],
        shapes: dict[str, tuple[int, ...]],
    ) -> _LowRank | None:
        """A `_LowRank`, or None and a fault."""
        layer = next(iter(parts.values()))[0]
        twice = [names for names in parts.values() if len(names) > 1]
        if name not in shapes:
            return self._fault(f"{layer}: the model has no such layer")
        if twice:
            return self._fault(f"{' and '.join(twice[0])}: two changes of one layer")
        if not {"down", "up"} <= parts.keys():
            return self._fault(f"{layer}: down or up of its low-rank change is missing")
        down, up = cleaned[parts["down"][0]], cleaned[parts["up"][0]]
        first, second, wanted = self.file.shape(down), self.file.shape(up), tuple(shapes[name])
        rank = first[0] if first else 0
        fits = (
            len(first) == len(wanted) >= 2
            and first[1:] == wanted[1:]
            and second[:2] == (wanted[0], rank)
            and all(n == 1 for n in second[2:])
        )
        if not fits or rank == 0:
            return self._fault(
                f"{name}: the product of {second} and {first}, the model has {wanted}" if rank else f"{down}: rank 0"
            )
        if not self._floating(down, up):
            return None
        try:
            alpha = float(self.file.read(cleaned[parts["alpha"][0]]).reshape(())) if "alpha" in parts else None
            scale = scale_of(self.metadata, parts["down"][0], rank, alpha)
        except (ValueError, TypeError, RecursionError) as error:
            return self._fault(f"{layer}: its alpha is not known: {error}")
        if not math.isfinite(scale):
            return self._fault(f"{layer}: its alpha is {scale * rank:g}")
        return _LowRank(down, up, scale)

    def _whole(
        self,
        others: Iterable[str],
        cleaned: dict[str, str],
        known: Names,
        shapes: dict[str, tuple[int, ...]],
    ) -> dict[str, str]:
        found = {}
        for name in others:
            target, stored = known.parameter(name), cleaned[name]
            if target not in shapes:
                reasons = [words for pattern, words in OTHERS if pattern.fullmatch(name)]
                self._fault(f"{name}: {reasons[0] if reasons else 'the model has no such parameter'}")
            elif target in self.low_rank or target in found:
                self._fault(f"{name}: the file changes it twice")
            elif self.file.shape(stored) != tuple(shapes[target]):
                self._fault(f"{name}: {self.file.shape(stored)}, the model has {tuple(shapes[target])}")
            elif self._floating(stored):
                found[target] = stored
        return found

    def _floating(self, *names: str) -> bool:
        wrong = [name for name in names if not np.issubdtype(self.file.dtype(name), np.floating)]
        for name in wrong:
            self._fault(f"{name}: {self.file.dtype(name)} is not floating-point")
        return not wrong

    def _fault(self, words: str) -> Any:
        """None, for where something else was to be found."""
        self._faults.append(words)

    def _raise(self) -> None:
        faults = self._faults
        if not self.file.names():
            faults = ["it holds no tensors"]
        if not faults:
            return
        more = [f"… and {len(faults) - _LISTED} more"] if len(faults) > _LISTED else []
        names = self.file.names()
        if any(original_name(name).startswith(("first_stage_model.", "conditioner.")) for name in names):
            more.append("It is a whole checkpoint: give it as --SVD.checkpoint.")
        raise UserError("\n  ".join([f"{self.path} does not fit this model as a delta:", *faults[:_LISTED], *more]))

    def names(self) -> list[str]:
        return [*self.whole, *self.low_rank]

    def change(self, name: str, old: np.ndarray) -> np.ndarray:
        """What is added to a parameter of value `old`, float32; it may not be finite."""
        with np.errstate(invalid="ignore", over="ignore"):
            if name in self.whole:
                return np.float32(self.strength) * (np.array(self.file.read(self.whole[name]), np.float32) - old)
            down, up, scale = self.low_rank[name]
            factor = np.float32(scale * self.strength)
            return factor * product(self.file.read(down), self.file.read(up), np.shape(old))
