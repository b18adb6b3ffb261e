"""Resize and crop images as they are read: ``folder:DIR?resize=256&crop=224&interpolation=bicubic``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

from PIL import Image

from robust_eval.core.errors import UserError, unknown
from robust_eval.core.strict_image import MOST_PIXELS

_INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_LARGEST = 4096


@dataclass(frozen=True)
class Resizing:
    """Resize the shorter side to ``resize`` pixels, then cut out ``crop`` x ``crop`` pixels in the centre.

    The order and the rounding are those of torchvision's Resize and CenterCrop, with which classifiers for
    ImageNet are usually evaluated. 0: this step is left out.
    """

    resize: int = 0
    crop: int = 0
    interpolation: str = "bilinear"

    def __str__(self) -> str:
        steps = {"resize": self.resize, "crop": self.crop, "interpolation": self.interpolation}
        if not self.resize or self.interpolation == "bilinear":
            del steps["interpolation"]
        return "&".join(f"{name}={value}" for name, value in steps.items() if value)

    def apply(self, image: Image.Image) -> Image.Image:
        """The resized and cropped image; a crop beyond the border is filled with black, as in torchvision."""
        size = self._resized(image.size)
        if size != image.size:
            if size[0] * size[1] > MOST_PIXELS:
                raise ValueError(f"resized it has {min(size)}x{max(size)} pixels, more than {MOST_PIXELS:,}")
            image = image.resize(size, _INTERPOLATIONS[self.interpolation])
        if self.crop:
            left, top = (round((side - self.crop) / 2) for side in image.size)
            image = image.crop((left, top, left + self.crop, top + self.crop))
        return image

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of what an image of this size becomes."""
        return (self.crop, self.crop) if self.crop else self._resized(size)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        if not self.resize or self.resize == min(size):
            return size
        short, long = self.resize, int(self.resize * max(size) / min(size))
        return (short, long) if size[0] <= size[1] else (long, short)


def parse(query: str, spec: str, default: Resizing | None = None) -> Resizing:
    """The steps of ``resize=256&crop=224``; ``spec`` is named in the message of an error.

    ``default``: its steps hold if the text names none of them.

    Raises:
        UserError: for other names, and for numbers out of range.
    """
    found: dict[str, int | str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True) or [("", "")]:
        if name not in ("resize", "crop", "interpolation"):
            raise unknown(f"argument of {spec}:", name, ("resize", "crop", "interpolation"))
        if name == "interpolation":
            if value not in _INTERPOLATIONS:
                raise unknown("interpolation", value, _INTERPOLATIONS)
            found[name] = value
        elif not (value.isascii() and value.isdigit() and len(value) < 5 and 1 <= int(value) <= _LARGEST):
            raise UserError(f"{spec}: {name} must be a whole number from 1 to {_LARGEST}, got '{value}'.")
        else:
            found[name] = int(value)
    if default is not None and not found.keys() & {"resize", "crop"}:
        return replace(default, **found)  # type: ignore[arg-type]  # by name
    return Resizing(**found)  # type: ignore[arg-type]
