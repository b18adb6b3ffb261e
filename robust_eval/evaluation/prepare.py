"""From what a user typed to a job: load, detect, fill in defaults, refuse what cannot work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from robust_eval import data
from robust_eval.core import image_sketch
from robust_eval.core.devices import pick_device
from robust_eval.core.errors import UserError
from robust_eval.core.request import Request
from robust_eval.core.threat import ThreatModel, parse_norm, parse_threat
from robust_eval.core.types import CheckpointRef
from robust_eval.data import ImageSet
from robust_eval.evaluation.attack_copy import check_precision, resolve_precision
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.planning import suites
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.planning.request import make_request
from robust_eval.models.acceleration import compilation
from robust_eval.models.loading import checkpoint

# The budgets of the AWP paper (section 4.4) and, for MNIST, of Madry et al. 2018; digits is ours.
DEFAULT_EPS: Mapping[str, Mapping[str, str]] = {
    "cifar10": {"Linf": "8/255", "L2": "128/255"},
    "cifar100": {"Linf": "8/255", "L2": "128/255"},
    "svhn": {"Linf": "8/255", "L2": "128/255"},
    "mnist": {"Linf": "0.3", "L2": "2"},
    "digits": {"Linf": "0.1", "L2": "0.5"},
}


def load_whole(options: EvaluationOptions, dataset: str | None) -> ImageSet:
    """All images of the named data, or of what the checkpoint says it was trained on."""
    spec = options.data or dataset
    if spec is None:
        raise UserError(
            "Which images? This checkpoint does not say what it was trained on: add --data, for example "
            "--data cifar10, --data npz:images.npz or --data folder:images."
        )
    return data.load(spec, root=options.data_root, split="train" if options.split == "train" else "test")


def asked_for(options: EvaluationOptions, whole: ImageSet) -> ImageSet:
    """The slice to judge."""
    return whole if options.examples is None else whole.take(options.examples)


def prepare(options: EvaluationOptions) -> Job:
    """Everything loaded, checked and on the device."""
    if options.split not in ("train", "test"):
        raise UserError(f"Unknown split '{options.split}'. Use test or train.")
    if options.batch_size is not None and options.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {options.batch_size}.")
    if options.seed < 0:
        raise UserError(f"--seed must be 0 or more, got {options.seed}.")
    suite = suites.load(options.suite)
    device = pick_device(options.device)
    precision, note = resolve_precision(options.precision, device)
    compile = compilation.parse(options.compile, device)
    if options.norm is not None or options.eps is not None:
        _check_threat_early(options)
    whole = None if options.data is None else load_whole(options, None)
    if whole is not None:
        asked_for(options, whole)  # refuses too many before a model is loaded
    # What a foreign file leaves open is found out on the same images whatever the slice: else another
    # --examples could make another model of it.
    loaded = checkpoint.load(
        options.checkpoint,
        images=whole,
        arch=options.arch,
        normalisation=options.normalisation,
        device=device,
    )
    if whole is None:
        whole = load_whole(options, loaded.ref.dataset)
        whole.refuse_misfit(loaded.ref.classes, loaded.ref.name)
    images = asked_for(options, whole).for_outputs(loaded.ref.classes)
    x, y = images.tensors()
    precision, note = check_precision(options.precision, precision, note, loaded.model, x.to(device))
    request = make_request(
        loaded.ref,
        images.slice(),
        resolve_threat(options, loaded.ref, images),
        suite,
        shape_CHW=tuple(x.shape[1:]),
        device=device,
        batch_size=options.batch_size,
        seed=options.seed,
        precision=precision,
        shards=options.shards,
    )
    if not 1 <= options.shards <= images.n:
        raise UserError(f"--shards must lie between 1 and the {images.n} examples, got {options.shards}.")
    notes = (note,) if note else ()
    overlap = None if loaded.trained_on is None else image_sketch.overlap(loaded.trained_on, images.x_NHWC)
    return Job(
        request, loaded.model, x.to(device), y.to(device), compile=compile, notes=notes, overlap=overlap
    )


def _check_threat_early(options: EvaluationOptions) -> None:
    """A typing mistake should not cost the loading of a model."""
    norm = parse_norm(options.norm or "Linf")
    if options.eps is not None:
        parse_threat(norm, options.eps)


def resolve_threat(options: EvaluationOptions, ref: CheckpointRef, images: ImageSet) -> ThreatModel:
    """As typed; else what the checkpoint was trained for; else the field's value for the dataset."""
    trained = (ref.trained_with or {}).get("threat") or {}
    norm = parse_norm(options.norm or trained.get("norm") or "Linf")
    eps = options.eps
    if eps is None and trained.get("norm") == norm:
        eps = trained.get("eps")
    if eps is None:
        eps = DEFAULT_EPS.get(images.name, {}).get(norm)
    if eps is None:
        raise UserError(
            f"Which budget? Add --eps, for example --eps {'8/255' if norm == 'Linf' else '128/255'}."
        )
    return parse_threat(norm, str(eps))


def default_folder(request: Request) -> Path:
    """The same command finds the same folder again, and so continues."""
    stem = "".join(c if c.isalnum() or c in "._-" else "-" for c in Path(request.checkpoint.name).stem)
    return Path("runs") / f"{stem or 'model'}-{request.suite.name.replace(',', '+')}-{request.key[:8]}"


def first(job: Job, n: int) -> Job:
    """The same job on its first ``n`` images, for a quick look."""
    return replace(job, x_NCHW=job.x_NCHW[:n], y_N=job.y_N[:n])


__all__ = [
    "DEFAULT_EPS",
    "EvaluationOptions",
    "asked_for",
    "default_folder",
    "first",
    "load_whole",
    "prepare",
    "resolve_threat",
]
