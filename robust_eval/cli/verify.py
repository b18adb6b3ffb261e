"""``robust-eval verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robust_eval.cli.options import ResultFile

if TYPE_CHECKING:
    from robust_eval.results.verification_record import Verification


def verify(
    result: ResultFile,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="The checkpoint file, or robustbench:MODEL_ID. Default: what a board keeps beside the row."
        ),
    ] = None,
    evidence: Annotated[
        Path | None,
        typer.Option(help="Default: what a board keeps beside the row, or a run beside its result."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Default: the data the result names.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder that holds the datasets.")] = None,
    arch: Annotated[str | None, typer.Option(help="As given to the run, where it was.")] = None,
    normalisation: Annotated[str | None, typer.Option(help="As given to the run, where it was.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    audit: Annotated[int, typer.Option(help="Attack N survivors again, with fresh seeds.")] = 0,
    audit_suite: Annotated[
        str | None, typer.Option(help="Attacks of the audit; default: the result's own.")
    ] = None,
    audit_seed: Annotated[int | None, typer.Option(help="Default: drawn afresh, and recorded.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The record; default: RESULT.verification.json beside the result. One that stands there is "
            "left alone, unless an audit has more to say or the row fails."
        ),
    ] = None,
) -> None:
    """Judge a result again with forward passes only, and say what was checked and what was not."""
    import secrets

    from robust_eval.core.errors import UserError
    from robust_eval.core.files import refuse_unwritable
    from robust_eval.leaderboard import attachments
    from robust_eval.results import read_result, verification_record
    from robust_eval.verification.verify import VerifyOptions
    from robust_eval.verification.verify import verify as run

    if audit < 0 or (audit_seed is not None and audit_seed < 0):
        raise UserError("--audit and --audit-seed must be 0 or more.")
    read_result(result)
    beside = attachments.attached_checkpoint(result)
    if checkpoint is None and beside is None:
        raise UserError(f"No checkpoint lies beside {result}: name it with --checkpoint FILE.")
    path = out or verification_record.path_beside(result)
    refuse_unwritable(path.parent)
    options = VerifyOptions(
        result=result,
        checkpoint=checkpoint or str(beside),
        evidence=evidence or attachments.attached_evidence(result),
        data=data,
        data_root=data_root,
        arch=arch,
        normalisation=normalisation,
        device=device,
        audit=audit,
        audit_suite=audit_suite,
        audit_seed=secrets.randbelow(2**31) if audit_seed is None else audit_seed,
    )
    found = run(options)
    _print(found)
    if out is None and verification_record.stands(path, found):
        typer.echo(f"On record already: {path}. --out FILE writes this one.")
    else:
        verification_record.write(path, found)
        typer.echo(f"Written: {path}")
    if not found.passed:
        raise typer.Exit(1)


def _print(found: Verification) -> None:
    from robust_eval.core.text import printable

    def line(passed: bool, name: str, detail: str) -> None:
        typer.echo(f"  {'ok    ' if passed else 'FAILED'}  {name}: {printable(detail)}")

    for check in found.checks:
        line(check.passed, check.name, check.detail)
    if found.not_reached:
        typer.echo(f"  not reached: {', '.join(found.not_reached)}")
    if found.audit is not None:
        line(found.audit.passed, "audit", found.audit.text)
    typer.echo("Taken on trust:")
    for sentence in found.trusted:
        typer.echo(f"  - {sentence}")
    typer.echo(f"Cost: {found.cost}, loading aside.")
    typer.echo("Verified." if found.passed else "NOT verified.")
