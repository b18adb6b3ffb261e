"""The resume file: everything a run needs to continue as if it had not been interrupted.

A dict of tensors, numbers and strings, read with ``weights_only=True``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from defenses.recipes.resolve import flatten
from robust_eval.core.errors import UserError
from robust_eval.core.files import atomic
from robust_eval.models.loading.file_reader import damaged_part

FORMAT = "defenses-resume"
VERSION = 1
FILE = "resume.pt"
DEFAULTS_OF_NEW_FIELDS = {"recipe.training.sync_batch_norm": False}
"""The value that older resume files, which lack the field, correspond to."""


def save(folder: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> int:
    """Write the state atomically; returns the file's size in bytes. Raises OSError."""
    content = io.BytesIO()
    torch.save(
        {"format": FORMAT, "version": VERSION, "identity": json.dumps(identity), "state": state}, content
    )
    with atomic(folder / FILE) as file:
        file.write(content.getvalue())
    return content.tell()


def load(folder: Path, identity: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The saved state. Raises UserError if the file is missing, damaged, or of a run of another identity."""
    path = folder / FILE
    if not path.exists():
        raise UserError(f"There is nothing to resume in {folder}: {FILE} is missing. Leave --resume out.")
    part = damaged_part(path)
    try:
        content = None if part else torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged zip file may raise any exception
        part = type(error).__name__
    if part:
        raise UserError(
            f"{path} is damaged ({part}) and cannot be resumed. last.pt contains the weights of the last "
            "epoch: start from them with --init, in another folder (--out)."
        )
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a resume file of defenses. To start from its weights, use --init {path}."
        )
    if content["version"] > VERSION:
        raise UserError(
            f"{path} was written by a newer version (format {content['version']}): update this one."
        )
    saved_identity = json.loads(content["identity"])
    changed = list(_differences(saved_identity, json.loads(json.dumps(identity))))
    if changed:
        listed = "; ".join([*changed[:3], *(["..."] if changed[3:] else [])])
        raise UserError(
            f"{folder} belongs to another run: {listed}. "
            "Repeat the options of that run to resume it, or choose another folder with --out."
        )
    state: dict[str, Any] = content["state"]
    return state


def _differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> Iterator[str]:
    """One phrase per field that differs. The number of devices may change."""
    before, now = dict(flatten(saved)), dict(flatten(current))
    for name in sorted(before.keys() | now.keys()):
        if name == "devices" or (name not in before and DEFAULTS_OF_NEW_FIELDS.get(name) == now[name]):
            continue
        if before.get(name) != now.get(name):
            field = name.removeprefix("recipe.")
            if field.startswith("data."):
                yield f"its {field.removeprefix('data.')} images are not the same"
            else:
                yield f"{field} was {before.get(name)}, now {now.get(name)}"
