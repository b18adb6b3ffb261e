"""``robust-eval landscape linear``: compare linear classifiers trained at growing epsilon with theory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from robust_eval.cli.landscape.frame import write_figure
from robust_eval.core.command_options import expand_options, option
from robust_eval.evaluation.planning.options import DATA

TRAINING = "Training"


@dataclass(frozen=True, kw_only=True)
class ClassOptions:
    """The two classes the classifier is trained on."""

    data: str = option("digits", "digits, mnist, cifar10, ..., folder:DIR or npz:FILE.", panel=DATA)
    data_root: Path | None = option(None, "Folder that contains the datasets.", panel=DATA)
    classes: str | None = option(None, "Two classes, for example 3,8 (default: the first two).", panel=DATA)
    examples: int = option(1000, "Maximum number of training images per class.", panel=DATA)


@dataclass(frozen=True, kw_only=True)
class LinearTrainingOptions:
    """Adversarial training at a series of epsilons."""

    norm: str = option("Linf", "Linf or L2.", panel=TRAINING)
    span: str = option("1.5", "Largest epsilon, in units of the predicted threshold.", panel=TRAINING)
    points: int = option(16, "Number of epsilons, including 0.", panel=TRAINING)
    steps: int = option(3000, "Gradient steps at each epsilon.", panel=TRAINING)
    seed: int = option(0, "Random seed of the initial weights.", panel=TRAINING)


@expand_options
def linear(
    classes: ClassOptions,
    training: LinearTrainingOptions,
    out: Annotated[Path, typer.Option(help="Output stem: OUT.png, OUT.svg and OUT.json are written.")] = Path(
        "linear-experiment"
    ),
) -> None:
    """Train linear classifiers against growing epsilon and compare with theory (Liu et al. 2020, section 3).

    Above a critical epsilon, known in closed form, the best linear classifier of two classes is constant. The
    command compares it with the epsilon at which the trained weights become 0. Takes seconds on a CPU.
    """
    from robust_eval import data
    from robust_eval.core import figure_style, terminal
    from robust_eval.core.threat import parse_fraction, parse_norm
    from robust_eval.landscape.liu import linear_experiment
    from robust_eval.landscape.liu.linear_classifier import sweep
    from robust_eval.landscape.option_checks import require_at_least

    figure_style.check_installed()
    steps, seed = training.steps, training.seed
    require_at_least("--steps", steps)
    require_at_least("--seed", seed, 0)
    norm, span = parse_norm(training.norm), parse_fraction(training.span, "--span")
    images = data.load(classes.data, root=classes.data_root, split="train")
    experiment = linear_experiment.load_experiment(images, classes.classes, norm, classes.examples)
    epsilons = linear_experiment.parse_epsilons(experiment.threshold, span, training.points)
    console = terminal.console()

    def show(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    show(
        f"  {' against '.join(experiment.classes)}, {len(experiment.y_N)} {images.name} images; predicted "
        f"threshold: {norm} {experiment.threshold:.5f}"
    )
    results = []
    for one in sweep(experiment.x_ND, experiment.y_N, norm, epsilons, steps=steps, seed=seed):
        results.append(one)
        show(
            f"  eps {one.eps:.5f}  |w| {one.weight_norm:10.5f}  loss {one.loss:.5f}  "
            f"error {100 * one.clean_error:5.1f}% clean {100 * one.robust_error:5.1f}% robust"
        )
    vanishing = linear_experiment.first_vanishing_epsilon(results)
    if vanishing is None:
        show("The weights do not become 0 within the span: increase --steps or --span.")
    else:
        last = max((one.eps for one in results if one.eps < vanishing), default=0)
        show(
            f"The weights become 0 between {last:.5f} and {vanishing:.5f}; predicted: "
            f"{experiment.threshold:.5f}."
        )
    if experiment.all_classes is not None:
        show(f"Softmax regression over all {images.classes} classes: threshold {experiment.all_classes:.5f}.")
    facts = linear_experiment.to_data(experiment, results, steps, seed)
    write_figure(console, linear_experiment.experiment_figure(experiment, results), out, facts)
