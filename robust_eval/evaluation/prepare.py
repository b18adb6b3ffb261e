"""Prepare a job: check the options, load model and images, and build the request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from robust_eval import data
from robust_eval.core import image_sketch
from robust_eval.core.checkpoint_names import distinct
from robust_eval.core.devices import pick_device
from robust_eval.core.errors import UserError
from robust_eval.core.float_images import Images
from robust_eval.core.request import Request
from robust_eval.core.threat import Norm, ThreatModel, parse_norm, parse_threat
from robust_eval.core.types import CheckpointRef, Slice
from robust_eval.data import ImageSet, Split
from robust_eval.evaluation import fresh_process
from robust_eval.evaluation.attack_copy import check_precision
from robust_eval.evaluation.checks import doubts, image_shape
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.known_model import load_known
from robust_eval.evaluation.planning import suites
from robust_eval.evaluation.planning.options import (
    DataOptions,
    EvaluationOptions,
    ModelOptions,
    ThreatOptions,
)
from robust_eval.evaluation.planning.request import make_request
from robust_eval.evaluation.planning.settings import Settings, check_options
from robust_eval.models.acceleration.tuning import flops
from robust_eval.models.isolation import Isolated
from robust_eval.models.loading import checkpoint
from robust_eval.models.loading.checkpoint import LoadedModel

# AWP paper, section 4.4; ImageNet: RobustBench; MNIST: Madry et al. 2018; digits: chosen in this project.
DEFAULT_EPS: Mapping[str, Mapping[str, str]] = {
    "cifar10": {"Linf": "8/255", "L2": "128/255"},
    "cifar100": {"Linf": "8/255", "L2": "128/255"},
    "svhn": {"Linf": "8/255", "L2": "128/255"},
    "imagenet": {"Linf": "4/255", "L2": "3"},
    "mnist": {"Linf": "0.3", "L2": "2"},
    "digits": {"Linf": "0.1", "L2": "0.5"},
}


def prepare(options: EvaluationOptions) -> Job:
    """Load the checkpoint and its images, and build the request.

    Raises:
        UserError: for options that are wrong or do not fit together, the cheapest check first.
    """
    settings = check(options)
    model, images = load(options, settings)
    return build_job(options, settings, model, images)


def prepare_again(
    options: EvaluationOptions, request: Request, tensors: tuple[Images, Tensor] | None = None
) -> Job:
    """The job of a request that another process has prepared; nothing is detected again.

    ``tensors``: images (N, C, H, W) and labels (N,) of the request; None: they are loaded.
    The job's request must be compared with the given one: this process may find other files.

    Raises:
        UserError: for options that are wrong, or files that cannot be used.
    """
    settings, known, slice_ = check(options), request.checkpoint, request.data
    if tensors is None:
        chosen = _choose(options, load_images(options, known.dataset)).chosen.for_outputs(known.classes)
        slice_, tensors = chosen.slice(), chosen.images()
    x, y = tensors[0].to(settings.device), tensors[1].to(settings.device)
    model = load_known(options, known, x.shape[1:], settings.device)
    return _make_job(options, settings, model, slice_, request.threat, (x, y))


def check(options: EvaluationOptions) -> Settings:
    """Every check that needs neither model nor images."""
    check_split(options)
    check_threat(options)
    device = pick_device(options.device)
    return check_options(options, suites.load(options.suite), device, shards=options.shards)


def check_split(options: DataOptions) -> None:
    """Raise :class:`UserError` for a split that no dataset has."""
    if options.split not in get_args(Split):
        raise UserError(f"Unknown split '{options.split}'. Use test, train or val.")


def check_threat(options: ThreatOptions) -> None:
    """Raise :class:`UserError` for an invalid norm or epsilon, before a model is loaded."""
    if options.norm is not None or options.eps is not None:
        norm = parse_norm(options.norm or "Linf")
        if options.eps is not None:
            parse_threat(norm, options.eps)


@dataclass(frozen=True)
class LoadedImages:
    """All images of a dataset, and those that are evaluated."""

    all: ImageSet
    chosen: ImageSet


def load(options: EvaluationOptions, settings: Settings) -> tuple[LoadedModel, LoadedImages]:
    """The model and the images.

    Named data are loaded first, so that a wrong --examples is reported at once.
    """
    images = _choose(options, load_images(options)) if options.data is not None else None
    # What a foreign file does not record (normalisation, variant) is detected on all images: otherwise
    # another --examples could give another model.
    model = load_model(options.checkpoint, options, settings.device, images.all if images else None)
    if images is None:
        images = _choose(options, load_images(options, model.ref.dataset))
    images.all.refuse_misfit(model.ref.classes, model.ref.name)
    image_shape.refuse_others(model, images.chosen, settings.device)
    return model, images


def load_images(options: DataOptions, dataset: str | None = None) -> ImageSet:
    """All images of ``options.data``, or of ``dataset``: what the checkpoint was trained on."""
    spec = options.data or dataset
    if spec is None:
        raise UserError(
            "Which images? This checkpoint does not record what it was trained on: add --data, for example "
            "--data cifar10, --data npz:images.npz or --data folder:images."
        )
    return data.load(spec, root=options.data_root, split=options.split)  # type: ignore[arg-type]  # checked


def load_model(
    source: str, options: ModelOptions, device: torch.device, images: ImageSet | None
) -> LoadedModel:
    """A checkpoint on a device; ``images`` help to detect what its file does not record."""
    return checkpoint.load(
        source,
        images=images,
        arch=options.arch,
        normalisation=options.normalisation,
        device=device,
    )


def _choose(options: DataOptions, images: ImageSet) -> LoadedImages:
    return LoadedImages(images, images if options.examples is None else images.take(options.examples).held())


def build_job(
    options: EvaluationOptions, settings: Settings, model: LoadedModel, images: LoadedImages
) -> Job:
    """The request, with its model and images on the device."""
    chosen = images.chosen.for_outputs(model.ref.classes)
    x_NCHW, y_N = chosen.images()
    x, y = x_NCHW.to(settings.device), y_N.to(settings.device)
    threat = resolve_threat(options, model.ref, chosen)
    job = _make_job(options, settings, model, chosen.slice(), threat, (x, y))
    trained_on = model.trained_on
    overlap = None if trained_on is None else image_sketch.overlap(trained_on, chosen.x_NHWC)
    return replace(job, overlap=overlap, raised=doubts.flags_of(model, x, y, threat))


def _make_job(
    options: EvaluationOptions,
    settings: Settings,
    model: LoadedModel,
    slice_: Slice,
    threat: ThreatModel,
    tensors: tuple[Images, Tensor],
) -> Job:
    x, y = tensors
    precision, note = check_precision(settings, model.model, x)
    operations = flops(Isolated(model.model), x[:1])
    shape = tuple(x.shape[1:])
    request = make_request(settings, model.ref, slice_, threat, shape, precision, operations)
    fresh_logits = partial(fresh_process.logits, options, model.ref)
    notes = (note,) if note else ()
    return Job(request, model.model, x, y, fresh_logits, settings.compile, notes)


SOME_EPS: Mapping[str, str] = {"Linf": "8/255", "L2": "128/255"}


def with_some_epsilon(options: EvaluationOptions, ref: CheckpointRef, images: ImageSet) -> EvaluationOptions:
    """The options, with a usual epsilon if neither user, checkpoint nor dataset names one."""
    norm, eps = _known_threat(options, ref, images)
    return options if eps is not None else replace(options, norm=norm, eps=SOME_EPS[norm])


def resolve_threat(options: ThreatOptions, ref: CheckpointRef, images: ImageSet) -> ThreatModel:
    """The given threat model; else that of the checkpoint's training; else the dataset's usual one."""
    norm, eps = _known_threat(options, ref, images)
    if eps is None:
        raise UserError(
            f"Which epsilon? Add --eps, for example --eps {'8/255' if norm == 'Linf' else '128/255'}."
        )
    return parse_threat(norm, eps)


def _known_threat(options: ThreatOptions, ref: CheckpointRef, images: ImageSet) -> tuple[Norm, str | None]:
    trained = (ref.trained_with or {}).get("threat") or {}
    norm = parse_norm(options.norm or trained.get("norm") or "Linf")
    eps = options.eps
    if eps is None and trained.get("norm") == norm:
        eps = trained.get("eps")
    if eps is None:
        eps = DEFAULT_EPS.get(images.name.partition("?")[0].removesuffix("-c"), {}).get(norm)
    return norm, None if eps is None else str(eps)


def default_folder(request: Request, source: str = "") -> Path:
    """Run folder of a request, so that the same command continues the same run.

    ``source``: the checkpoint as the command names it; its folder tells files called best.pt apart. A folder
    that an earlier version named by the file alone is continued.
    """
    before, named = (_run_folder(request, name) for name in (request.checkpoint.name, distinct(source)))
    return before if not source or before.is_dir() else named


def _run_folder(request: Request, name: str) -> Path:
    stem = "".join(c if c.isalnum() or c in "._-" else "-" for c in str(Path(name).with_suffix("")))
    return Path("runs") / f"{stem or 'model'}-{request.suite.name.replace(',', '+')}-{request.key[:8]}"


def with_first_images(job: Job, n: int) -> Job:
    """The same job on its first ``n`` images."""
    return replace(job, x_NCHW=job.x_NCHW[:n], y_N=job.y_N[:n])
