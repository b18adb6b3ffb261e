"""The resume file: everything a run needs to go on as if it had not stopped.

A dict of tensors, numbers and strings, read with the weights-only reader.
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
# Fields that runs from before they existed behaved as if they had.
LATER = {"recipe.training.sync_batch_norm": False}


def save(folder: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> int:
    """Write the state in one step; returns the file's size in bytes. Raises OSError."""
    content = io.BytesIO()
    torch.save(
        {"format": FORMAT, "version": VERSION, "identity": json.dumps(identity), "state": state}, content
    )
    with atomic(folder / FILE) as file:
        file.write(content.getvalue())
    return content.tell()


def load(folder: Path, identity: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The state of a run with this identity; a UserError says why there is none."""
    path = folder / FILE
    if not path.exists():
        raise UserError(f"There is nothing to resume in {folder}: {FILE} is missing. Leave --resume out.")
    part = damaged_part(path)
    try:
        content = None if part else torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged zip raises whatever its bytes happen to hit
        part = type(error).__name__
    if part:
        raise UserError(
            f"{path} is damaged ({part}) and cannot be resumed. last.pt holds the weights of the last epoch: "
            "start from them with --init, in another folder (--out)."
        )
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a resume file of defenses. To start from its weights, use --init {path}."
        )
    if content["version"] > VERSION:
        raise UserError(
            f"{path} was written by a newer version (format {content['version']}): update this one."
        )
    theirs = json.loads(content["identity"])
    changed = list(_differences(theirs, json.loads(json.dumps(identity))))
    if changed:
        listed = "; ".join([*changed[:3], *(["..."] if changed[3:] else [])])
        raise UserError(
            f"{folder} belongs to another run: {listed}. "
            "Repeat the options of that run to resume it, or choose another folder with --out."
        )
    state: dict[str, Any] = content["state"]
    return state


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    before, now = dict(flatten(theirs)), dict(flatten(ours))
    for name in sorted(before.keys() | now.keys()):
        if name == "devices" or (name not in before and LATER.get(name) == now[name]):
            continue
        if before.get(name) != now.get(name):
            short = name.removeprefix("recipe.")
            if short.startswith("data."):
                yield f"its {short.removeprefix('data.')} images are not the same"
            else:
                yield f"{short} was {before.get(name)}, now {now.get(name)}"
