"""The record of a verification, stored beside its result as ``<result>.verification.json``.

It contains the digest of the result's content, so that it becomes invalid when the result is edited.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError

from robust_eval.core import strict_json
from robust_eval.core.closed_model import ClosedModel
from robust_eval.core.errors import UserError
from robust_eval.core.files import write_text
from robust_eval.core.text import count_of
from robust_eval.results import first_error
from robust_eval.results.schema import NonNegativeInt, Seconds, Sha256

VERIFICATION_VERSION = 1
SUFFIX = ".verification.json"


class CheckRecord(ClosedModel):
    """The outcome of one check."""

    name: str
    passed: bool
    detail: str


class AuditRecord(ClosedModel):
    """Robust examples that were attacked again, with a seed unknown when the result was published."""

    model_config = ConfigDict(populate_by_name=True)

    suite: str
    seed: NonNegativeInt
    n: Annotated[int, Field(ge=1)]
    broken: tuple[NonNegativeInt, ...] = Field(validation_alias="fell", serialization_alias="fell")
    """Indices of the examples that the audit broke; ``fell`` in files."""
    limit: float
    """Share of broken examples that random starts explain; see :mod:`robust_eval.verification.audit`."""
    passed: bool
    forwards: NonNegativeInt
    backwards: NonNegativeInt
    seconds: Seconds

    @property
    def text(self) -> str:
        """The outcome in words."""
        broken = f"{len(self.broken)} of {count_of(self.n, 'robust example')} broken"
        return f"{broken} by suite {self.suite}, seed {self.seed}, {self.seconds:.1f} s"


class Verification(ClosedModel):
    """All checks of one verification, and what they do not cover."""

    verification_version: Literal[1] = 1
    result: Sha256
    """Digest of the result's content."""
    checks: tuple[CheckRecord, ...]
    not_reached: tuple[str, ...] = ()
    """Checks that were skipped because one they depend on failed."""
    trusted: tuple[str, ...]
    """What was not and could not be checked, in plain sentences."""
    audit: AuditRecord | None = None
    forwards: NonNegativeInt
    """Images passed through the model; in addition the flags take two gradients of 32 images."""
    seconds: Seconds
    share: Annotated[float, Field(ge=0)] | None
    """Seconds divided by those of the evaluation, without the audit."""
    robust_eval: str
    device: str
    created: str

    @property
    def cost(self) -> str:
        """Cost of the checks without loading, compared with the evaluation's (also without loading)."""
        share = "" if self.share is None else f", {self.share:.2%} of what the evaluation took"
        return f"{self.forwards:,} forward passes, {self.seconds:.2f} s{share}"

    @property
    def passed(self) -> bool:
        """Whether every check ran and passed, and also the audit, if one was run."""
        judged = all(check.passed for check in self.checks) and not self.not_reached
        return judged and (self.audit is None or self.audit.passed)


def path_beside(result: Path) -> Path:
    """Where the verification of a result file is stored."""
    return result.with_name(result.stem + SUFFIX)


def to_json(verification: Verification) -> str:
    """The content of the record's file."""
    return verification.model_dump_json(indent=1, by_alias=True) + "\n"


def write(path: Path, verification: Verification) -> None:
    """Write the record as JSON."""
    write_text(path, to_json(verification))


def is_covered(path: Path, verification: Verification) -> bool:
    """Whether the record at ``path`` is of the same result, passed, and need not be replaced.

    A passed record also covers a verification that failed because of another checkpoint, other images or
    other evidence: such a failure concerns the files given, not the result. An audit is never covered.
    """
    if not path.is_file():
        return False
    try:
        before = read(path)
    except UserError:
        return False
    failed = {check.name for check in verification.checks if not check.passed}
    same = before.result == verification.result and before.passed
    return same and failed <= {"checkpoint", "data", "evidence"} and verification.audit is None


def read(path: Path) -> Verification:
    """Read a record. Raises :class:`UserError` for a file that is not the record of a verification."""
    value = strict_json.read(path)
    version = value.get("verification_version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > VERIFICATION_VERSION:
        raise UserError(
            f"{path} has verification version {version}, newer than {VERIFICATION_VERSION}, the newest that "
            "this release reads. Upgrade robust-eval."
        )
    try:
        return Verification.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{path} is not a valid verification: {first_error(error)}.") from None
