"""What a file really is that is not a checkpoint: what failed downloads and mix-ups leave under a checkpoint's name."""

from __future__ import annotations

import re

REMEDY = """To make a safetensors file of a PyTorch checkpoint, run this where torch and safetensors are installed:
    import torch, safetensors.torch
    weights = torch.load("model.ckpt", map_location="cpu", weights_only=True)
    weights = weights.get("state_dict", weights)
    safetensors.torch.save_file({name: w.contiguous().clone() for name, w in weights.items()}, "model.safetensors")
(weights_only=False runs the file's code: only for a file whose origin you trust.)"""
START = 4096  # bytes of a file that `what_it_is` wants to see
_AGAIN = (
    "Download it again: logged in (`hf auth login`), with the model's terms accepted on its page, and by the link of "
    "the file itself (…/resolve/…), not of the page that shows it (…/blob/…)."
)
_UNPACK, _NAME, _OTHER = "Unpack it first.", "Name the checkpoint.", "Take the safetensors file of the same model."
# (pattern of the beginning of a text, what the file is, the remedy)
_TEXTS = (
    (
        rb"version https://git-lfs\.github\.com/spec/",
        "a Git LFS pointer: a note of where the weights lie",
        "Run `git lfs pull` in its folder, or download it again as the file itself.",
    ),
    (rb"<(!doctype|html|head|body|script|!--)", "an HTML page", _AGAIN),
    (rb"<(\?xml|error)", "an XML text, as servers send with an error", _AGAIN),
    (rb"[{\[]", "a JSON text", _AGAIN),
)
_BINARIES = (
    (rb"\x1f\x8b|BZh\d|\xfd7zXZ\0|\x28\xb5\x2f\xfd|7z\xbc\xaf\x27\x1c|Rar!", "a packed archive", _UNPACK),
    (rb".{257}ustar", "a tar archive", _UNPACK),
    (rb"GGUF", "a GGUF file (llama.cpp's format)", _OTHER),
    (rb"\x89HDF\r\n", "an HDF5 file (Keras)", _OTHER),
    (rb"\x93NUMPY", "a NumPy array", _NAME),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....(WEBP|AVI )|....ftyp|\x1aE\xdf\xa3", "a picture or a video", _NAME),
    (rb"%PDF", "a PDF document", _NAME),
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_SHOWN = 120  # characters of a text


def what_it_is(start: bytes) -> tuple[str, str] | None:
    """(what the file is, what to do), or None for one of unknown kind; start: its first `START` bytes."""
    for pattern, what, remedy in _BINARIES:
        if re.match(pattern, start, re.DOTALL):
            return what, remedy
    if not start.strip(b"\0"):
        return "zeros, as an interrupted download leaves them", "Download it again."
    if _CONTROL.search(start):
        return None
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    for pattern, what, remedy in _TEXTS:
        if re.match(pattern, text, re.IGNORECASE):
            return what, f"{_beginning(text)}\n{remedy}"
    return "a text", f"{_beginning(text)}\n{_AGAIN}"


def _beginning(text: bytes) -> str:
    """How a text begins, which often says what was wrong."""
    shown = " ".join(text.decode("utf-8", "replace").split())
    return f"It begins: {shown[:_SHOWN]}{'…' if len(shown) > _SHOWN else ''}"
