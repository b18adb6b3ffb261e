"""Interrupted runs continue bit for bit; failed writes lose no training."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.small_jobs import StopAfter, make_job, run, same, weights
from torch import nn

from defenses.runs.files import Reserve
from defenses.training import resume_file, run_folder
from defenses.training.context import begin
from defenses.training.job import TrainingJob
from defenses.training.runtime import start_runtime
from defenses.training.signals import InterruptHandler, TrainingInterrupted
from robust_eval.core import files
from robust_eval.core.errors import UserError
from robust_eval.models.loading import checkpoint, file_reader

RECIPES = [
    ("at-awp", ()),
    ("trades-awp", ("perturbation.warmup=1/3", "training.ema=0.9")),
    ("at-mixup", ("augment.flip=true", "augment.crop_padding=1")),
    ("at-pas", ()),
    ("at-rwp", ("optimiser.name=adam", "optimiser.lr=0.01")),
]


def interrupted(job: TrainingJob, updates: int) -> None:
    interrupt = InterruptHandler()
    with pytest.raises(TrainingInterrupted):
        run(job, interrupt, StopAfter(interrupt, updates))


def again(job: TrainingJob) -> TrainingJob:
    return replace(job, options=replace(job.options, resume=True))


def figures(folder: Path) -> list[list[str]]:
    """The learning curve without its last two columns, which are times."""
    return [line.split(",")[:-2] for line in (folder / "curve.csv").read_text().splitlines()]


@pytest.mark.parametrize(("name", "sets"), RECIPES)
@pytest.mark.parametrize("updates", [3, 4])
def test_resuming_is_bit_for_bit(name: str, sets: tuple[str, ...], updates: int, tmp_path: Path) -> None:
    """Interrupted within an epoch (after update 3; epochs have 2) and at the end of one (after update 4)."""
    uninterrupted = make_job(tmp_path / "uninterrupted", name, *sets, epochs=4)
    parts = make_job(tmp_path / "parts", name, *sets, epochs=4)
    run(uninterrupted)
    interrupted(parts, updates)
    outcome = run(again(parts))
    assert outcome.epochs == 4
    for file in ("last.pt", "best.pt"):
        assert (tmp_path / "uninterrupted" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()
    assert figures(tmp_path / "uninterrupted") == figures(tmp_path / "parts")
    one, other = (
        torch.load(tmp_path / f / "resume.pt", weights_only=True)["state"] for f in ("uninterrupted", "parts")
    )
    states = [list(state["optimiser"]["state"].values()) for state in (one, other)]
    for mine, theirs in zip(*states, strict=True):
        assert all(torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(theirs[key])) for key in mine)


def test_a_finished_run_resumes_to_its_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Resume files are read by every version of torch.
    monkeypatch.setattr(file_reader, "SAFE_TORCH", "1000.0")
    job = make_job(tmp_path, "at")
    last = run(job).last
    before = [(tmp_path / name).stat().st_mtime_ns for name in ("last.pt", "best.pt")]
    assert run(again(job)).last == last
    after = [(tmp_path / name).stat().st_mtime_ns for name in ("last.pt", "best.pt")]
    assert after == before, "results name these files by their hash"


def test_a_used_folder_is_not_overwritten(tmp_path: Path) -> None:
    job = make_job(tmp_path, "at", epochs=1)
    run(job)
    before = weights(tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"already holds a run: continue it with --resume"):
        run(job)
    assert same(before, weights(tmp_path / "last.pt"))


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is nothing to resume in .*: resume\.pt is missing"):
        run(again(make_job(tmp_path, "at")))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_a_damaged_resume_file(content: bytes, tmp_path: Path) -> None:
    job = make_job(tmp_path, "at", epochs=1)
    run(job)
    (tmp_path / "resume.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"resume\.pt is damaged .* --init"):
        run(again(job))


def test_a_resume_file_with_one_byte_changed(tmp_path: Path) -> None:
    """torch.load does not detect it, and the run would continue from damaged weights."""
    job = make_job(tmp_path, "at", epochs=1)
    run(job)
    before = weights(tmp_path / "last.pt")
    file = tmp_path / "resume.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x40
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"resume\.pt is damaged \(\w+/data/\d+\)"):
        run(again(job))
    assert same(before, weights(tmp_path / "last.pt"))


def test_a_missing_record_is_written_again(tmp_path: Path) -> None:
    job = make_job(tmp_path, "at", epochs=1)
    run(job)
    before = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").unlink()
    run(again(job))
    assert (tmp_path / "run.json").read_text() == before


def test_a_resumed_run_notes_another_number_of_threads(tmp_path: Path) -> None:
    job = make_job(tmp_path, "at", epochs=1)
    run(job)
    context, state = begin(job, start_runtime("cpu", "32", 1, 1))
    saved = state.saved(context.runtime)
    assert not any("bit for bit" in note for note in state.restore(saved, context.runtime))
    notes = state.restore(saved | {"threads": saved["threads"] + 1}, context.runtime)
    assert notes[-1].startswith(f"trained on {saved['threads'] + 1} threads so far, now on")


def test_a_truncated_resume_file(tmp_path: Path) -> None:
    job = make_job(tmp_path, "at", epochs=1)
    run(job)
    file = tmp_path / "resume.pt"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"resume\.pt is damaged"):
        run(again(job))


def test_a_foreign_resume_file(tmp_path: Path) -> None:
    job = make_job(tmp_path, "at", epochs=1)
    run(job)
    torch.save({"state_dict": {}}, tmp_path / "resume.pt")
    with pytest.raises(UserError, match=r"is not a resume file of defenses.*--init"):
        run(again(job))
    torch.save({"format": resume_file.FORMAT, "version": 99}, tmp_path / "resume.pt")
    with pytest.raises(UserError, match=r"written by a newer version \(format 99\)"):
        run(again(job))


def test_a_run_with_edited_network_code_is_not_resumed(tmp_path: Path) -> None:
    code = (
        "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    (tmp_path / "net.py").write_text(code)
    job = make_job(tmp_path / "run", "at", epochs=2, arch=f"{tmp_path / 'net.py'}:make")
    interrupted(job, 3)
    (tmp_path / "net.py").write_text(code.replace("nn.Flatten(),", "nn.Flatten(), nn.Tanh(),"))
    with pytest.raises(UserError, match=r"belongs to another run: code_sha256 was .*, now "):
        run(again(job))


def test_the_folder_of_another_run(tmp_path: Path) -> None:
    run(make_job(tmp_path, "at", epochs=1))
    other = make_job(tmp_path, "at", "optimiser.lr=0.05", epochs=1, seed=3)
    with pytest.raises(
        UserError, match=r"belongs to another run: optimiser\.lr was 0\.1, now 0\.05; seed was 0, now 3"
    ):
        run(again(other))
    shorter = make_job(tmp_path, "at", epochs=1, n=60)
    with pytest.raises(UserError, match="its train images are not the same"):
        run(again(shorter))


def test_a_full_disk_during_a_run_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full before the third epoch is saved; its state is written to the reserved space."""
    uninterrupted, parts = (
        make_job(tmp_path / name, "at-awp", epochs=4) for name in ("uninterrupted", "parts")
    )
    run(uninterrupted)
    save = checkpoint.save

    def fails(path: Path, network: nn.Module, description: checkpoint.CheckpointDescription) -> None:
        if path.name == "last.pt" and (description.metrics or {})["epoch"] == 3:
            assert (tmp_path / "parts" / ".reserve").stat().st_size > (
                tmp_path / "parts" / "resume.pt"
            ).stat().st_size
            raise UserError(f"{path} cannot be written: No space left on device.")
        save(path, network, description)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", fails)
        with pytest.raises(
            UserError, match=r"No space left on device.* The state after epoch 3 is saved: .*--resume"
        ):
            run(parts)
    assert not (tmp_path / "parts" / ".reserve").exists()
    run(again(parts))
    assert same(weights(tmp_path / "uninterrupted" / "last.pt"), weights(tmp_path / "parts" / "last.pt"))
    assert same(weights(tmp_path / "uninterrupted" / "best.pt"), weights(tmp_path / "parts" / "best.pt"))
    assert figures(tmp_path / "uninterrupted") == figures(tmp_path / "parts")


def test_a_disk_that_becomes_full_between_the_files_of_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only last.pt is written; resuming writes best.pt and the curve of that epoch."""
    uninterrupted, parts = (make_job(tmp_path / name, "at", epochs=3) for name in ("uninterrupted", "parts"))
    run(uninterrupted)
    save = checkpoint.save

    def fails(path: Path, *args: object, **others: object) -> None:
        if path.name == "best.pt":
            raise UserError(f"{path} cannot be written: No space left on device.")
        save(path, *args, **others)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", fails)
        with pytest.raises(UserError, match=r"The state after epoch \d is saved"):
            run(parts)
    assert (tmp_path / "parts" / "last.pt").is_file()
    assert not (tmp_path / "parts" / "best.pt").exists()
    run(again(parts))
    assert same(weights(tmp_path / "uninterrupted" / "best.pt"), weights(tmp_path / "parts" / "best.pt"))
    assert figures(tmp_path / "uninterrupted") == figures(tmp_path / "parts")


def test_disk_space_is_not_reserved_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret" * 100)
    for size in (100, 1000):
        (tmp_path / "reserve").unlink(missing_ok=True)
        (tmp_path / "reserve").symlink_to("secret")
        Reserve(tmp_path / "reserve").fill(size)
        assert (tmp_path / "reserve").stat().st_size == size
    assert (tmp_path / "secret").read_bytes() == b"secret" * 100


def test_a_disk_too_full_for_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(tmp_path, "at", epochs=4)
    saved = resume_file.save

    def fails(folder: Path, identity: object, state: dict[str, dict[str, int]]) -> int:
        if state["progress"]["epoch"] == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return saved(folder, identity, state)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(resume_file, "save", fails)
        with pytest.raises(UserError, match=r"No space left on device.*The state after epoch 1 is saved"):
            run(job)
    assert torch.load(tmp_path / "resume.pt", weights_only=True)["state"]["progress"]["epoch"] == 1
    assert run(again(job)).epochs == 4


def test_a_disk_that_is_full_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message does not claim that a state was saved, and its advice works."""
    job = make_job(tmp_path, "at", epochs=1)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", full)
        with pytest.raises(UserError) as raised:
            run(job)
    assert str(raised.value).endswith(
        "(No space left on device). Nothing had been saved yet: "
        "free disk space and run the same command again."
    )
    assert run(job).epochs == 1


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), files.atomic(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be written \(.*\): choose another one with --out"):
        run(make_job(tmp_path / "taken" / "run", "at"))


def test_the_state_is_saved_within_long_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "SAVE_EVERY_SECONDS", -1.0)
    seen: list[int] = []
    original = resume_file.save

    def spy(folder: Path, identity: object, state: dict[str, dict[str, int]]) -> int:
        seen.append(state["progress"]["iteration"])
        return original(folder, identity, state)  # type: ignore[arg-type]

    monkeypatch.setattr(resume_file, "save", spy)
    run(make_job(tmp_path, "at", epochs=1))
    assert seen == [1, 2, 0]


@pytest.mark.parametrize("lacking", ["identity", "state", "version"])
def test_an_incomplete_resume_file(lacking: str, tmp_path: Path) -> None:
    whole = {"format": resume_file.FORMAT, "version": 1, "identity": "{}", "state": {}}
    for value in (None, 3, "[]", []):
        torch.save(whole | {lacking: value}, tmp_path / "resume.pt")
        reasons = "is incomplete|was written by a newer version|is not readable as JSON"
        with pytest.raises(UserError, match=rf"resume\.pt ({reasons})"):
            resume_file.load(tmp_path, {})


@pytest.mark.parametrize(
    "changed",
    [
        {"epoch": "1"},
        {"epoch": -1},
        {"iteration": 0.5},
        {"images": True},
        {"best": "high"},
        {"rows": "none"},
        {"rows": [{"epoch": "one"}]},
        {"rows": [3]},
        {"other": 1},
    ],
)
def test_a_resume_file_with_progress_of_other_types(changed: dict[str, object], tmp_path: Path) -> None:
    job = make_job(tmp_path, "at", epochs=1)
    context, state = begin(job, start_runtime("cpu", "32", 1, 1))
    saved = state.saved(context.runtime)
    saved["progress"] = saved["progress"] | changed
    resume_file.save(tmp_path, context.identity(), saved)
    with pytest.raises(UserError, match=r"resume\.pt does not fit this run \("):
        run(again(job))


@pytest.mark.parametrize("value", [None, 3, "text", {"x": 1}, []])
@pytest.mark.parametrize("part", ["network", "optimiser", "progress", "threads", "world"])
def test_a_resume_file_with_a_damaged_part(part: str, value: object, tmp_path: Path) -> None:
    """What only becomes a note, the number of threads and processes, may be missing or another number."""
    job = make_job(tmp_path, "at", epochs=1)
    context, state = begin(job, start_runtime("cpu", "32", 1, 1))
    saved = state.saved(context.runtime) | {part: value}
    if (part, value) in (("threads", None), ("threads", 3), ("world", 3)):
        state.restore(saved, context.runtime)
        return
    resume_file.save(tmp_path, context.identity(), saved)
    with pytest.raises(UserError, match=r"resume\.pt does not fit this run \("):
        run(again(job))


def test_a_run_of_an_earlier_version_is_continued_if_it_is_the_same(tmp_path: Path) -> None:
    folder, identity = tmp_path, {"recipe": {"objective": {"name": "trades"}}}
    resume_file.save(folder, identity, {})
    new = {"wide_start": False, "ball_around_start": False, "unclamped_start": False}
    same_run = {
        "recipe": {"objective": {"name": "trades", "passes": "adversarial-natural"}, "replicate": new}
    }
    assert resume_file.load(folder, same_run) == {}
    other = {"recipe": {"objective": {"name": "trades", "passes": "natural-adversarial-natural"}}}
    with pytest.raises(UserError, match="objective.passes was None, now natural-adversarial-natural"):
        resume_file.load(folder, other)
