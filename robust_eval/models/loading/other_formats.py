"""Say what a file or folder is that is no checkpoint, and how to get a state dict out of it.

Without torch. Code in the advice is for the user to run on files that the user trusts.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

_IF_TRUSTED = "Where you trust it, get the weights out with"
_OTHER_NAMES = (
    "Its weights have other names and axes than those of a torch network: copy them into one, then "
    "torch.save(network.state_dict(), 'weights.pt')."
)
TORCHSCRIPT = (
    "is a TorchScript archive, which carries code",
    f"{_IF_TRUSTED}: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt').",
)
_EXPORTED = (
    "is a program written by torch.export",
    f"{_IF_TRUSTED}: torch.save(dict(torch.export.load(FILE).state_dict), 'weights.pt').",
)
_KERAS = ("is a Keras model, not a checkpoint", _OTHER_NAMES)
_NUMPY = (
    "is a NumPy archive, not a checkpoint",
    "For images use --data npz:FILE; for weights: "
    "torch.save({k: torch.from_numpy(v) for k, v in numpy.load(FILE).items()}, 'weights.pt').",
)
_ARRAY = (
    "is a NumPy array, not a checkpoint",
    f"If it contains a dict of weights (JAX): {_IF_TRUSTED[0].lower()}{_IF_TRUSTED[1:]} "
    "numpy.load(FILE, allow_pickle=True).item(). " + _OTHER_NAMES,
)
_ONNX = (
    "is an ONNX model, not a checkpoint",
    "Its initialisers are the weights: torch.save({t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t "
    "in onnx.load(FILE).graph.initializer}, 'weights.pt').",
)
_FLAX = (
    "is a file of Flax (msgpack), not a checkpoint",
    "Read it with flax.serialization.msgpack_restore. " + _OTHER_NAMES,
)
_TENSORFLOW = ("is a file of TensorFlow, not a checkpoint of torch", _OTHER_NAMES)
_DCP_FOLDER = (
    "is a folder of torch.distributed.checkpoint",
    f"{_IF_TRUSTED}: torch.distributed.checkpoint.format_utils.dcp_to_torch_save(FOLDER, 'weights.pt').",
)
_DCP = (
    "is one part of a checkpoint of torch.distributed.checkpoint",
    _DCP_FOLDER[1].replace("FOLDER", "its folder"),
)
_ORBAX = ("is a checkpoint of Orbax (JAX)", "Read it with orbax.checkpoint. " + _OTHER_NAMES)
_TAR = (
    "is a tar archive, not a checkpoint, or a torch checkpoint from before 2017, which the weights-only "
    "reader cannot open",
    "Save the weights alone: torch.save(model.state_dict(), path).",
)
_MAGIC: dict[bytes, tuple[str, str]] = {
    b"\x89HDF": ("is an HDF5 file (Keras?), not a checkpoint", _OTHER_NAMES),
    b"\x93NUMPY": _ARRAY,
    b"GGUF": ("is a GGUF file of a language model, not a checkpoint", "Choose an image classifier."),
    b"\x1f\x8b": ("is a gzip archive: unpack it first, not a checkpoint", ""),
    b"BZh": ("is a bzip2 archive: unpack it first, not a checkpoint", ""),
    b"\xfd7zXZ": ("is an xz archive: unpack it first, not a checkpoint", ""),
    b"7z\xbc\xaf": ("is a 7z archive: unpack it first, not a checkpoint", ""),
    b"Rar!": ("is a RAR archive: unpack it first, not a checkpoint", ""),
    b"\x89PNG": ("is a PNG picture, not a checkpoint", ""),
    b"\xff\xd8\xff": ("is a JPEG picture, not a checkpoint", ""),
    b"%PDF": ("is a PDF document, not a checkpoint", ""),
}
_SUFFIXES = {
    ".onnx": _ONNX,
    ".msgpack": _FLAX,
    ".distcp": _DCP,
    ".tflite": _TENSORFLOW,
    ".pb": _TENSORFLOW,
    ".index": _TENSORFLOW,
}
_INDEX_OF_BINS = (
    "is the index of a checkpoint in several pickles",
    "Load its model where it was saved, and save it as safetensors.",
)


def of_folder(path: Path) -> str:
    """The error message for a folder."""
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError:
        names = set()
    index = next((name for name in sorted(names) if name.endswith(".safetensors.index.json")), "")
    if ".metadata" in names:
        return _sentence(path, _DCP_FOLDER)
    if {"_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt"} & names:
        return _sentence(path, _ORBAX)
    if "saved_model.pb" in names or any(name.endswith(".ckpt.index") for name in names):
        return _sentence(path, ("is a folder of TensorFlow, not a checkpoint of torch", _OTHER_NAMES))
    return f"{path} is a folder. Name {f'the index in it: {path / index}' if index else 'a file in it'}."


def of_archive(names: Collection[str]) -> tuple[str, str] | None:
    """What a zip archive is, as the predicate of a sentence, and advice; None: it may be a checkpoint."""
    files = {name.partition("/")[2] or name for name in names} | set(names)
    if "constants.pkl" in files or any(name.startswith("code/") for name in files):
        return TORCHSCRIPT
    if {"archive_format", "serialized_exported_program.json"} & files:
        return _EXPORTED
    if "model.weights.h5" in files:
        return _KERAS
    return _NUMPY if any(name.endswith(".npy") for name in names) else None


def of_file(path: Path, head: bytes) -> str:
    """The error message for a file that begins with ``head`` and is no checkpoint."""
    known = of_suffix(path)
    if known:
        return known
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return (
            f"{path} is a web page, not a checkpoint: the server returned HTML (a login or "
            "confirmation page?). Download it again in a browser."
        )
    if head.startswith(b"version https://git-lfs"):
        return f"{path} is a Git LFS pointer, not the file itself. Fetch it with: git lfs pull."
    kinds = [kind for magic, kind in _MAGIC.items() if head.startswith(magic)]
    kinds += [_TAR] if head[257:262] == b"ustar" else []
    kinds += [_TENSORFLOW] if head[4:8] == b"TFL3" or b"model_checkpoint_path:" in head[:64] else []
    # The version of the format, then the name of the program that wrote it.
    kinds += [_ONNX] if head[:1] == b"\x08" and head[2:3] == b"\x12" and head[1:2] < b"\x40" else []
    # A map whose first key is a short text.
    kinds += [_FLAX] if b"\x81" <= head[:1] <= b"\x8f" and b"\xa1" <= head[1:2] <= b"\xbf" else []
    if kinds:
        return _sentence(path, kinds[0])
    if b'"weight_map"' in head:
        return _sentence(path, _INDEX_OF_BINS)
    return _unknown(path, head)


def of_suffix(path: Path) -> str | None:
    """The error message for a file whose name tells what it is; None for other names."""
    kind = _SUFFIXES.get(path.suffix)
    if ".data-0" in path.suffix:
        kind = _TENSORFLOW
    return None if kind is None else _sentence(path, kind)


def _sentence(path: Path, kind: tuple[str, str]) -> str:
    what, advice = kind
    return f"{path} {what}. {advice}".rstrip()


def _unknown(path: Path, head: bytes) -> str:
    try:
        first_line = head.decode("utf-8", errors="ignore" if len(head) == 1024 else "strict").splitlines()[0]
    except (UnicodeDecodeError, IndexError):
        first_line = ""
    if first_line and first_line.isprintable():
        return f"{path} is a text file, not a checkpoint. It starts with '{first_line[:40]}'."
    start = head[:4].hex(" ")
    return f"{path} is not a checkpoint: it starts with {start}. Expected a torch or safetensors file."
