"""``robust-eval verify``: compute the verdicts of a result again from its stored evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robust_eval.cli.options import ResultFile, recognised
from robust_eval.core.command_options import expand_options
from robust_eval.verification.options import VerifyOptions

if TYPE_CHECKING:
    from robust_eval.results.verification_record import Verification


@expand_options
def verify(
    result: ResultFile,
    options: VerifyOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the record (default: RESULT.verification.json beside the result; a record "
            "that already covers this verification is not overwritten)."
        ),
    ] = None,
) -> None:
    """Verify a result with forward passes only: list what was checked, and what is taken on trust.

    Exits with 1 if a check fails.
    """
    import secrets
    from dataclasses import replace

    from robust_eval.core.errors import UserError
    from robust_eval.core.files import refuse_unwritable
    from robust_eval.leaderboard import attachments, companions
    from robust_eval.results import read_result, verification_record

    seed = options.audit_seed
    if options.audit < 0 or (seed is not None and seed < 0):
        raise UserError("--audit and --audit-seed must be 0 or more.")
    if seed is not None and not options.audit:
        raise UserError("--audit-seed chooses the units of an audit: add --audit N.")
    read_result(result)
    beside = attachments.attached_checkpoint(result)
    if options.checkpoint is None and beside is None:
        raise UserError(f"There is no checkpoint beside {result}: give it with --checkpoint FILE.")
    path = out or verification_record.path_beside(result)
    refuse_unwritable(path.parent)
    recognised(options.checkpoint or str(beside))
    completed = replace(
        options,
        checkpoint=options.checkpoint or str(beside),
        evidence=options.evidence or attachments.attached_evidence(result),
        audit_seed=secrets.randbelow(2**31) if seed is None else seed,
    )
    from robust_eval.verification.verify import verify_result  # imports torch

    record = verify_result(result, completed, log=typer.echo)
    _print(record)
    if out is not None:
        verification_record.write(path, record)
    if out is not None or companions.record_verification(result, record):
        typer.echo(f"Written: {path}")
    else:
        typer.echo(f"Already recorded: {path}. Use --out FILE to write this record too.")
    if not record.passed:
        raise typer.Exit(1)


def _print(record: Verification) -> None:
    from robust_eval.core.text import printable

    def line(passed: bool, name: str, detail: str) -> None:
        typer.echo(f"  {'ok    ' if passed else 'FAILED'}  {name}: {printable(detail, 600)}")

    for check in record.checks:
        line(check.passed, check.name, check.detail)
    if record.not_reached:
        typer.echo(f"  not reached: {', '.join(record.not_reached)}")
    if record.audit is not None:
        line(record.audit.passed, "audit", record.audit.text)
    typer.echo("Taken on trust:")
    for sentence in record.trusted:
        typer.echo(f"  - {sentence}")
    typer.echo(f"Cost: {record.cost} (without loading).")
    typer.echo("Verified." if record.passed else "NOT verified.")
