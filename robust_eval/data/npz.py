"""Images in a NumPy archive: ``x`` (N, H, W, C) or (N, H, W), ``y`` integer labels (N,) or (N, 1).

Pixels are uint8, or floats in [0, 1], which are rounded to 8 bits; the name says so if that changes them.
``x_test, y_test``, ``x_train, y_train`` and ``x_val, y_val`` are the arrays of a split. ``class_names`` (an
array of strings) is optional; without it the classes are 0 to ``y.max()``, and the network may have more
outputs. The file is untrusted: nothing in it is unpickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust_eval.core import strict_arrays
from robust_eval.core.errors import UserError
from robust_eval.data import ImageSet, Split

ARGUMENT = "FILE"
SPLITS = ("train", "test", "val")
# Of the file and of its arrays, which are read into memory.
LARGEST_BYTES = 16 * 2**30
# More than the classes of any image dataset: larger labels are not class indices.
LARGEST_LABEL = 100_000


def load(argument: str, root: Path, split: Split) -> ImageSet:
    """Load the file ``argument`` (relative to the working directory).

    The ``split`` is ignored if the arrays are called ``x`` and ``y``.
    """
    path = Path(argument).expanduser()
    arrays = _arrays(path, ("x", "y"), split=split)
    part = "" if "x" in arrays else f"_{split}"
    x_NHWC, exact = _images(arrays[f"x{part}"], path.name)
    y_N = _labels(arrays[f"y{part}"], len(x_NHWC), path.name)
    named = "class_names" in arrays
    names = _class_names(arrays.get("class_names"), y_N, path.name)
    name = f"npz:{path.name}" + ("" if exact else "?rounded=8bit")
    return ImageSet(name, split if part else "all", x_NHWC, y_N, names, all_classes=named)


def load_unlabelled(path: Path) -> NDArray[np.uint8] | None:
    """The images (N, H, W, C) of an archive without ``y``; None if it has ``y``. Raises like :func:`load`."""
    arrays = _arrays(path, needed=("x",), unwanted=("y", "y_train"))
    return _images(arrays["x"], path.name)[0] if arrays else None


def _arrays(
    path: Path, needed: tuple[str, ...], unwanted: tuple[str, ...] = (), split: str = ""
) -> dict[str, NDArray[Any]]:
    """The arrays of the archive by name, those of the ``split`` if it has none without; none if it has one
    that is ``unwanted``.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist. Write npz:FILE with arrays x and y.")
    with strict_arrays.opened_npz(path, LARGEST_BYTES) as archive:
        if archive.names.intersection(unwanted):
            return {}
        if split and "x" not in archive.names and any(f"x_{one}" in archive.names for one in SPLITS):
            needed = tuple(f"{name}_{split}" for name in needed)
        missing = [name for name in needed if name not in archive.names]
        if missing:
            present = ", ".join(sorted(archive.names)) or "none"
            named = f"array{'s' * (len(missing) > 1)} {' and '.join(missing)}"
            raise UserError(f"{path} lacks the {named} (it has {present}). Save them under these names.")
        return {name: archive.read(name) for name in (*needed, "class_names") if name in archive.names}


def _images(x: NDArray[np.generic], file: str) -> tuple[NDArray[np.uint8], bool]:
    """The pixels, and whether they have exactly 8 bits."""
    exact = True
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        raise UserError(f"x in {file} contains NaN or infinity. Save pixels in [0, 1], or uint8.")
    if np.issubdtype(x.dtype, np.floating) and x.size and x.min() >= 0 and x.max() <= 1:
        floats = np.asarray(x, dtype=np.float32) * 255
        rounded = np.rint(floats).astype(np.uint8)
        # In float16, levels of 8 bits are wrong by up to an eighth of a level.
        exact = bool(np.abs(floats - rounded).max() < (0.13 if x.dtype == np.float16 else 1e-3))
        x = rounded
    if x.dtype != np.uint8:
        raise UserError(f"x in {file} is {x.dtype}, not uint8. {_conversion(x)}")
    if x.ndim not in (3, 4) or 0 in x.shape:
        raise UserError(
            f"x in {file} has shape {x.shape}; expected (N, H, W, C) or (N, H, W), none of them 0."
        )
    pixels = np.asarray(x, dtype=np.uint8)
    if x.ndim == 3:
        return pixels[..., None], exact
    if x.shape[3] > 4:
        hint = " It looks like (N, C, H, W): save x.transpose(0, 2, 3, 1)." if x.shape[1] <= 4 else ""
        raise UserError(f"x in {file} has shape {x.shape}, so {x.shape[3]} channels; expected 1 to 4.{hint}")
    return pixels, exact


def _conversion(x: NDArray[np.generic]) -> str:
    """Advice on how to convert an array to uint8 pixels."""
    if not np.issubdtype(x.dtype, np.floating) and not np.issubdtype(x.dtype, np.integer):
        return "Save 8-bit pixels."
    low, high = (float(x.min()), float(x.max())) if x.size else (0.0, 0.0)
    if low >= 0 and high <= 255:
        return "Its values lie in 0..255: save numpy.rint(x).astype('uint8')."
    return f"Its values run from {low:g} to {high:g}: undo the normalisation and save pixels 0..255 as uint8."


def _labels(y: NDArray[np.generic], n: int, file: str) -> NDArray[np.int64]:
    if y.shape == (n, 1):
        y = y[:, 0]
    if y.ndim == 2 and len(y) == n and y.shape[1] > 1:
        raise UserError(f"y in {file} has shape {y.shape}, as one-hot labels have. Save y.argmax(1).")
    if y.shape != (n,):
        raise UserError(f"y in {file} has shape {y.shape} for {n} images; expected ({n},).")
    if not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"y in {file} is {y.dtype}; expected whole numbers such as int64.")
    if y.min() < 0:
        raise UserError(f"y in {file} has labels from {y.min()} to {y.max()}; number the classes from 0.")
    if y.max() > LARGEST_LABEL:
        raise UserError(
            f"y in {file} has the label {y.max()}; labels are class indices, at most {LARGEST_LABEL:,}. "
            "Number the classes from 0."
        )
    return y.astype(np.int64)


def _class_names(names: NDArray[np.generic] | None, y_N: NDArray[np.int64], file: str) -> tuple[str, ...]:
    if names is None:
        return tuple(str(index) for index in range(int(y_N.max()) + 1))
    if names.ndim != 1 or names.dtype.kind != "U":
        raise UserError(f"class_names in {file} must be a list of strings.")
    if y_N.max() >= len(names):
        raise UserError(f"y in {file} has the label {y_N.max()}, but class_names has {len(names)} entries.")
    return tuple(str(name) for name in names)
