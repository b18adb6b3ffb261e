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
from robust_eval.core import strict_json
from robust_eval.core.errors import UserError
from robust_eval.core.files import atomic
from robust_eval.models.loading.file_reader import damaged_part, read

FORMAT = "defenses-resume"
VERSION = 1
FILE = "resume.pt"
DEFAULTS_OF_NEW_FIELDS = {
    "recipe.training.sync_batch_norm": False,
    "recipe.optimiser.clip": 0.0,
    "recipe.objective.passes": "adversarial-natural",
    "recipe.replicate.unclamped_start": False,
    "recipe.replicate.ball_around_start": False,
    "recipe.replicate.wide_start": False,
}
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


def load(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The saved state, on the CPU.

    Raises UserError if the file is missing, damaged, or of a run of another identity.
    """
    path = folder / FILE
    if not path.exists():
        raise UserError(f"There is nothing to resume in {folder}: {FILE} is missing. Leave --resume out.")
    content = _content(path)
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise UserError(f"{path} was written by a newer version (format {version}): update this one.")
    saved_identity = strict_json.loads(str(content.get("identity")), f"The identity in {path}")
    state = content.get("state")
    if not isinstance(saved_identity, dict) or not isinstance(state, dict):
        raise UserError(f"{path} is incomplete and cannot be resumed. Start a new run in another folder.")
    changed = list(_differences(saved_identity, json.loads(json.dumps(identity))))
    if changed:
        listed = "; ".join([*changed[:3], *(["..."] if changed[3:] else [])])
        raise UserError(
            f"{folder} belongs to another run: {listed}. "
            "Repeat the options of that run to resume it, or choose another folder with --out."
        )
    return state


def _content(path: Path) -> dict[str, Any]:
    try:
        part = damaged_part(path)
        content = None if part else read(path).value
    except UserError:
        part, content = "it cannot be read", None
    if part:
        raise UserError(
            f"{path} is damaged ({part}) and cannot be resumed. last.pt contains the weights of the last "
            "epoch: start from them with --init, in another folder (--out)."
        )
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a resume file of defenses. To start from its weights, use --init {path}."
        )
    return content


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
