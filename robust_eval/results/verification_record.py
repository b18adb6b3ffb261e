"""The record of a verification, stored beside its result as ``<result>.verification.json``.

It contains the digest of the result's content, so that it becomes invalid when the result is edited.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from robust_eval.core import strict_json
from robust_eval.core.closed_model import ClosedModel
from robust_eval.core.errors import UserError
from robust_eval.core.files import write_text
from robust_eval.core.text import count_of
from robust_eval.results import first_error
from robust_eval.results.schema_types import NonNegativeInt, Seconds, Sha256

VERIFICATION_VERSION = 2
SUFFIX = ".verification.json"


class CheckRecord(ClosedModel):
    """The outcome of one check."""

    name: str
    passed: bool
    detail: str


class AuditRecord(ClosedModel):
    """Robust examples that were attacked again, in units chosen after the result was published.

    See :mod:`robust_eval.verification.audit`.
    """

    columns: tuple[str, ...]
    """The audited columns; only they count below."""
    seed: NonNegativeInt
    """Chose the units and the fresh seed."""
    n: NonNegativeInt
    """Examples recorded as robust that were attacked again, with the row's own seed and with fresh ones."""
    of: NonNegativeInt
    """Examples recorded as robust."""
    broken_own: tuple[NonNegativeInt, ...]
    """Indices of those that the row's own seed broke."""
    broken_fresh: tuple[NonNegativeInt, ...]
    """Indices of those that the first fresh seed broke."""
    contradicted: tuple[NonNegativeInt, ...]
    """Indices of examples that the row's own seed broke where it repeated the stored images bit for bit."""
    images: NonNegativeInt
    """Stored images whose attack was repeated with the row's own seed."""
    images_equal: NonNegativeInt
    """Those that came out the same, bit for bit."""
    robust_alone: Annotated[tuple[NonNegativeInt, ...], Field(min_length=3)]
    """Examples that are robust in one run only: in the record, with the row's own seed, with each fresh seed
    (two if the row's own run was not repeated exactly)."""
    p: Annotated[float, Field(ge=0, le=1)]
    """p-value of the first of these numbers: one-sided exact binomial test; all are equally likely."""
    passed: bool
    forwards: NonNegativeInt
    backwards: NonNegativeInt
    seconds: Seconds

    @property
    def exact(self) -> bool:
        """Whether every stored image was repeated bit for bit."""
        return self.images > 0 and self.images_equal == self.images

    @property
    def text(self) -> str:
        """The outcome in words."""
        record, *others = self.robust_alone
        if self.contradicted:
            contradiction = f", so that the record of {count_of(len(self.contradicted), 'example')} is false"
        else:
            contradiction = ""
        return (
            f"{self.n:,} of {count_of(self.of, 'robust example')} attacked again by "
            f"{', '.join(self.columns)}, audit seed {self.seed}. Own seed: {len(self.broken_own)} broken; "
            f"{self.images_equal:,} of {count_of(self.images, 'stored image')} repeated bit for "
            f"bit{contradiction}. Fresh seed: {len(self.broken_fresh)} broken. Robust in one run only: "
            f"{record} in the record, {', '.join(map(str, others))} in the others (p = {self.p:.2g})"
        )

    @property
    def cost(self) -> str:
        """The passes and seconds of the audit."""
        return f"{self.forwards:,} forward and {self.backwards:,} backward passes, {self.seconds:.1f} s"


class Verification(ClosedModel):
    """All checks of one verification, and what they do not cover."""

    verification_version: Literal[1, 2] = 2
    result: Sha256
    """Digest of the result's content."""
    checks: tuple[CheckRecord, ...]
    not_reached: tuple[str, ...] = ()
    """Checks that were skipped because one they depend on failed."""
    trusted: tuple[str, ...]
    """What this verification takes on trust (:mod:`robust_eval.results.trust`)."""
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
        """Cost without loading: of the checks, compared with the evaluation's, and of the audit."""
        share = "" if self.share is None else f", {self.share:.2%} of what the evaluation took"
        audit = "" if self.audit is None else f"; audit: {self.audit.cost}"
        return f"{self.forwards:,} forward passes, {self.seconds:.2f} s{share}{audit}"

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
    return verification.model_dump_json(indent=1) + "\n"


def write(path: Path, verification: Verification) -> None:
    """Write the record as JSON."""
    write_text(path, to_json(verification))


def is_covered(path: Path, verification: Verification) -> bool:
    """Whether the record at ``path`` is of the same result, passed, and need not be replaced.

    A passed record also covers a verification that failed because of another checkpoint, other images or
    other evidence: such a failure concerns the files given, not the result. An audit is never covered, and a
    record of an older version, with fewer checks, covers nothing.
    """
    if not path.is_file():
        return False
    try:
        before = read(path)
    except UserError:
        return False
    failed = {check.name for check in verification.checks if not check.passed}
    current = before.verification_version == VERIFICATION_VERSION
    same = before.result == verification.result and before.passed and current
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
    if version == 1 and isinstance(value, dict):
        # The audits of version 1 tolerated relabelled examples: what they found is not relied on.
        value = {**value, "audit": None}
    try:
        return Verification.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{path} is not a valid verification: {first_error(error)}.") from None
