"""Cases for loading: foreign files whose tensors all match, although the network may be another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch.nn.functional import gelu, leaky_relu

from robust_eval.verification.selftest.case import Case, make_case
from robust_eval.verification.selftest.foreign_files import (
    Foreign,
    State,
    flags_of_file,
    trained_without_batchnorm,
)

_RIGHT: Sequence[tuple[str, Foreign]] = (
    ("foreign file with BatchNorm", Foreign()),
    ("foreign file with GELU", Foreign(gelu)),
)
_NONE = {"normalisation": "none"}
_PLANTS: Sequence[tuple[str, str, Callable[[], State], Mapping[str, str]]] = (
    ("no BatchNorm, no record", "normalisation-uncertain", trained_without_batchnorm, {}),
    ("an activation that has no name", "batchnorm-mismatch", Foreign(torch.abs).state, _NONE),
    ("input of half the size", "batchnorm-mismatch", Foreign(scale=2.0).state, _NONE),
    (
        "the wrong activation named",
        "batchnorm-mismatch",
        Foreign(gelu).state,
        {**_NONE, "arch": "wrn-10-1?activation=softplus"},
    ),
    ("last layer without bias", "architecture-uncertain", Foreign(bias=False).state, _NONE),
    (
        "LeakyReLU of an unusual slope",
        "architecture-uncertain",
        Foreign(partial(leaky_relu, negative_slope=0.05)).state,
        _NONE,
    ),
)
_ALLOWED = ("architecture-uncertain", "collapsed")
"""Another activation than that of the file may lie between two, and predict by chance."""


def cases() -> list[Case]:
    return [
        *(make_case("unmodified", name, (), partial(_run, right.state, {})) for name, right in _RIGHT),
        *(
            make_case("loading", name, (flag,), partial(_run, make, options), *_ALLOWED)
            for name, flag, make, options in _PLANTS
        ),
    ]


def _run(make: Callable[[], State], options: Mapping[str, str]) -> set[str]:
    return flags_of_file(make(), **options)
