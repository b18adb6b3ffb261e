"""The record of a verification, kept beside the result it speaks of: ``result.verification.json``.

It names the result by the digest of its content, so that it lapses when the result is edited.
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
from robust_eval.results import NonNegativeInt, Seconds, Sha256, first_error

VERIFICATION_VERSION = 1
SUFFIX = ".verification.json"


class CheckRecord(ClosedModel):
    name: str
    passed: bool
    detail: str


class AuditRecord(ClosedModel):
    """Survivors that were attacked once more, with seeds that nobody knew before."""

    suite: str
    seed: NonNegativeInt
    n: Annotated[int, Field(ge=1)]
    fell: tuple[NonNegativeInt, ...]
    """Indices of the examples that did not survive."""
    limit: float
    """The share of fallen examples that chance explains; see :mod:`robust_eval.verification.audit`."""
    passed: bool
    forwards: NonNegativeInt
    backwards: NonNegativeInt
    seconds: Seconds

    @property
    def text(self) -> str:
        """What happened, in words."""
        fell = f"{len(self.fell)} of {count_of(self.n, 'survivor')} fell"
        return f"{fell} to suite {self.suite}, seed {self.seed}, {self.seconds:.1f} s"


class Verification(ClosedModel):
    verification_version: Literal[1] = 1
    result: Sha256
    """Digest of the result's content."""
    checks: tuple[CheckRecord, ...]
    not_reached: tuple[str, ...] = ()
    """Checks that a failed one made pointless."""
    trusted: tuple[str, ...]
    """What was not and could not be checked, in plain sentences."""
    audit: AuditRecord | None = None
    forwards: NonNegativeInt
    """Images through the model. Beside them the flags take two gradients of 32 images."""
    seconds: Seconds
    share: Annotated[float, Field(ge=0)] | None
    """Seconds over those of the evaluation, the audit not counted."""
    robust_eval: str
    device: str
    created: str

    @property
    def cost(self) -> str:
        """Of the judging alone, like the seconds of an evaluation: neither counts loading."""
        share = "" if self.share is None else f", {self.share:.2%} of what the evaluation took"
        return f"{self.forwards:,} forward passes, {self.seconds:.2f} s{share}"

    @property
    def passed(self) -> bool:
        judged = all(check.passed for check in self.checks) and not self.not_reached
        return judged and (self.audit is None or self.audit.passed)


def path_beside(result: Path) -> Path:
    return result.with_name(result.stem + SUFFIX)


def write(path: Path, verification: Verification) -> None:
    write_text(path, verification.model_dump_json(indent=1) + "\n")


def stands(path: Path, found: Verification) -> bool:
    """Whether the record at ``path`` says of the same content all that this one says, apart from its date.

    Or more: a row that was verified is none the worse for another row's checkpoint, images or evidence.
    """
    if not path.is_file():
        return False
    try:
        before = read(path)
    except UserError:
        return False
    failed = {check.name for check in found.checks if not check.passed}
    same = before.result == found.result and before.passed
    return same and failed <= {"checkpoint", "data", "evidence"} and found.audit is None


def read(path: Path) -> Verification:
    """Raises :class:`UserError` for a file that is not the record of a verification."""
    value = strict_json.read(path)
    version = value.get("verification_version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > VERIFICATION_VERSION:
        raise UserError(
            f"{path} has verification version {version}, newer than {VERIFICATION_VERSION}, the newest known "
            "here. Upgrade robust-eval."
        )
    try:
        return Verification.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{path} is not a valid verification: {first_error(error)}.") from None
