"""``robust-eval linear-experiment``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robust_eval.cli.options import DataRoot


def linear_experiment(
    data: Annotated[
        str, typer.Option(help="digits, mnist, cifar10, ..., folder:DIR or npz:FILE.")
    ] = "digits",
    data_root: DataRoot = None,
    classes: Annotated[
        str | None, typer.Option(help="Two classes, such as 3,8; the first two by default.")
    ] = None,
    examples: Annotated[int, typer.Option(help="Training images of each class, at most.")] = 1000,
    norm: Annotated[str, typer.Option(help="Linf or L2.")] = "Linf",
    span: Annotated[str, typer.Option(help="Largest budget, in units of the predicted threshold.")] = "1.5",
    points: Annotated[int, typer.Option(help="Budgets, from 0 on.")] = 16,
    steps: Annotated[int, typer.Option(help="Gradient steps at each budget.")] = 3000,
    seed: Annotated[int, typer.Option(help="Of the first weights.")] = 0,
    out: Annotated[Path, typer.Option(help="OUT.png, OUT.svg and OUT.json are written.")] = Path(
        "linear-experiment"
    ),
) -> None:
    """Beyond a computable budget the best linear classifier is the constant one (Liu et al. 2020).

    Trains a linear classifier of two classes against growing budgets and compares the one at which its
    weights vanish with the closed form. Seconds on a CPU.
    """
    from robust_eval import data as datasets
    from robust_eval.core import figure_style
    from robust_eval.core.threat import parse_fraction, parse_norm
    from robust_eval.landscape.liu import linear_classifier, measurement
    from robust_eval.landscape.liu import linear_experiment as experiment

    measurement.checked_count("--steps", steps)
    measurement.checked_count("--seed", seed, 0)
    found_norm, most = parse_norm(norm), parse_fraction(span, "--span")
    images = datasets.load(data, root=data_root, split="train")
    made = experiment.prepare(images, classes, found_norm, examples)
    budgets = experiment.budgets(made.threshold, most, points)
    typer.echo(
        f"  {' against '.join(made.classes)}, {len(made.y_N)} {images.name} images; predicted threshold: "
        f"{found_norm} {made.threshold:.5f}"
    )
    found = []
    for one in linear_classifier.sweep(made.x_ND, made.y_N, found_norm, budgets, steps=steps, seed=seed):
        found.append(one)
        typer.echo(
            f"  eps {one.eps:.5f}  |w| {one.weight_norm:10.5f}  loss {one.loss:.5f}  "
            f"error {100 * one.clean_error:5.1f}% clean {100 * one.robust_error:5.1f}% robust"
        )
    gone = experiment.vanished(found)
    typer.echo(
        "The weights do not vanish within the span: take more --steps or a larger --span."
        if gone is None
        else f"The weights vanish between {max((p.eps for p in found if p.eps < gone), default=0):.5f} and "
        f"{gone:.5f}; theory says {made.threshold:.5f}."
    )
    if made.all_classes is not None:
        typer.echo(f"Softmax regression over all {images.classes} classes: threshold {made.all_classes:.5f}.")
    paths = figure_style.save(experiment.draw(made, found), out, experiment.to_data(made, found, steps, seed))
    typer.echo(f"Written: {', '.join(map(str, paths))}")
