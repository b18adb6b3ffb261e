"""``defenses pseudo-label``: label images with the predictions of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from defenses.cli.options import DataRoot, Device


def pseudo_label(
    checkpoint: Annotated[str, typer.Argument(help="The model that predicts the labels.")],
    data: Annotated[str, typer.Option(help="Unlabelled images: npz:FILE (y may be missing) or folder:DIR.")],
    out: Annotated[Path, typer.Option(help="The .npz file to write.")],
    data_root: DataRoot = None,
    min_confidence: Annotated[
        float, typer.Option(help="Leave out images whose highest class probability is below this.")
    ] = 0.0,
    device: Device = "auto",
) -> None:
    """Label images with the predictions of a model, for `defenses train rst --unlabelled`."""
    from robust_eval.models.loading import file_head

    file_head.check_source(checkpoint)
    from rich.markup import escape

    from defenses.training.pseudo_labels import write_pseudo_labels
    from robust_eval.core import terminal
    from robust_eval.core.devices import pick_device

    labelled = write_pseudo_labels(
        checkpoint,
        data,
        out,
        data_root=data_root,
        min_confidence=min_confidence,
        device=str(pick_device(device)),
    )
    terminal.console().print(
        f"Written: {escape(str(labelled.path))}: {labelled.kept} of {labelled.seen} images, mean confidence "
        f"{labelled.mean_confidence:.3f}, {min(labelled.classes)} to {max(labelled.classes)} per class",
        highlight=False,
    )
