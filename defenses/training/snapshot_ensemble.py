"""The ensemble of a run's snapshots (Liu et al. 2020)."""

from __future__ import annotations

from defenses.training.accuracy import Accuracies, measure_accuracies
from defenses.training.checkpoints import save_model
from defenses.training.context import TrainingContext
from defenses.training.run_folder import snapshot_path
from robust_eval.models.architectures.ensemble import Ensemble
from robust_eval.models.loading import checkpoint
from robust_eval.models.normalisation import Normalised


def build_ensemble(context: TrainingContext) -> Accuracies | None:
    """Write ``ensemble.pt`` from the snapshots of all periods and measure it on the validation images.

    Returns None if the recipe has no periods, if a snapshot is missing (early stopping), or if there are
    no validation images.
    """
    job, recipe = context.job, context.job.recipe
    count = len(recipe.schedule.periods) + 1
    paths = [snapshot_path(job.folder, number) for number in range(1, count + 1)]
    if count == 1 or not all(path.exists() for path in paths):
        return None
    device = context.runtime.device
    members = [checkpoint.load(str(path), images=None, device=device).network for path in paths]
    ensemble = Ensemble(members)
    model = Normalised(ensemble, job.normalisation).to(device)
    pool = context.pools.get("val")
    accuracies = measure_accuracies(model, pool, recipe, model) if pool else None
    metrics = {} if accuracies is None else {"val_clean": accuracies.clean, "val_pgd": accuracies.pgd}
    save_model(job, job.folder / "ensemble.pt", ensemble, metrics, members=count)
    return accuracies
