"""``robust-eval landscape hessian``: compute the largest Hessian eigenvalues of the adversarial loss."""

from __future__ import annotations

from dataclasses import dataclass

from robust_eval.cli.landscape.frame import load_checkpoints, new_table, run_folder, write_figure
from robust_eval.cli.landscape.options import (
    LANDSCAPE,
    AttackOptions,
    Checkpoints,
    OutputOptions,
    TrainingDataOptions,
)
from robust_eval.core.command_options import expand_options, option
from robust_eval.evaluation.planning.options import ModelOptions, ThreatOptions


@dataclass(frozen=True, kw_only=True)
class SpectrumOptions:
    """How many eigenvalues, and how exactly."""

    count: int = option(5, "Number of eigenvalues, by absolute value.", panel=LANDSCAPE)
    tolerance: float = option(
        1e-3, "Relative change below which an eigenvalue has converged.", panel=LANDSCAPE
    )
    iterations: int = option(50, "Maximum number of Hessian-vector products per eigenvalue.", panel=LANDSCAPE)


@expand_options
def hessian(
    checkpoints: Checkpoints,
    spectrum: SpectrumOptions,
    data: TrainingDataOptions,
    threat: ThreatOptions,
    attack: AttackOptions,
    model: ModelOptions,
    output: OutputOptions,
) -> None:
    """Compute the largest Hessian eigenvalues of the adversarial loss: sharpness (Liu et al. 2020).

    Adversarial images are made once at each checkpoint's weights; the Hessian is that of the mean loss on
    them with respect to all parameters. Eigenvalues are ordered by absolute value and printed with their
    sign.
    """
    from robust_eval.core import terminal
    from robust_eval.core.errors import UserError
    from robust_eval.landscape.liu.hessian_spectrum import KIND, VERSION, measure, spectrum_figure, to_data
    from robust_eval.landscape.liu.measurement import make_measurement
    from robust_eval.landscape.option_checks import require_at_least

    require_at_least("--count", spectrum.count)
    require_at_least("--iterations", spectrum.iterations)
    tolerance, iterations = spectrum.tolerance, spectrum.iterations
    if not 0 < tolerance < 1:
        raise UserError(f"--tolerance must be between 0 and 1, got {tolerance:g}.")
    comparison = load_checkpoints(checkpoints, data, threat, model, output)
    measurement = make_measurement(KIND, VERSION, comparison, **vars(attack))
    console = terminal.console()
    with run_folder(console, measurement, output.out) as folder, console.status("") as status:
        eigenvalues = measure(
            measurement,
            spectrum.count,
            folder,
            tolerance=tolerance,
            iterations=iterations,
            on_result=lambda one: status.update(f"{one.label}: eigenvalue {one.rank} of {spectrum.count}"),
        )
    heads = ["checkpoint", "rank", "eigenvalue", "residual", "products"]
    if not all(one.converged for one in eigenvalues):
        heads.append("")
    table = new_table("Hessian eigenvalues by size", *heads, text_columns=(0, 5))
    for one in eigenvalues:
        numbers = (str(one.rank), f"{one.value:.5g}", f"{one.residual:.2g}", str(one.iterations))
        note = "" if one.converged else "not converged: increase --iterations"
        table.add_row(*(one.label, *numbers, note)[: len(heads)])
    table.caption = "An eigenvalue lies within the residual of each value."
    console.print(table)
    facts = to_data(eigenvalues, measurement, tolerance, iterations)
    write_figure(console, spectrum_figure(eigenvalues, measurement), folder / KIND, facts)
