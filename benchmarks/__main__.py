"""Compare time, memory and verdicts with ART, pyautoattack, torchattacks and foolbox (unmodified).

Examples:
  python -m benchmarks                                    all cases whose data is available
  python -m benchmarks --work "mnist full" --data-root DIR --examples 100
  python -m benchmarks --cifar npz:images.npz             the ResNet-18 cases, on these 32 x 32 images
  python -m benchmarks --checkpoint model.pt --data npz:images.npz --eps 8/255 --suite pgd-20

Other benchmarks (each has --help):
  benchmarks.evaluation.cost_growth      cost against examples, model size and attack steps
  benchmarks.evaluation.spsa_queries     SPSA queries per second
  benchmarks.training.step               time and memory of a training step
  benchmarks.training.precision          robust accuracy after training in float32 and bfloat16
  benchmarks.scaling.ray                 one and two Ray workers
  benchmarks.scaling.simulate_board      simulated time of a leaderboard on 1 to 1,000 GPUs
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from benchmarks import options
from benchmarks.evaluation import peer_environment
from benchmarks.evaluation.case import PEERS_DO, SIDES, SUITES, WORKS, Work
from benchmarks.evaluation.side import Report
from benchmarks.evaluation.tables import table
from benchmarks.training import step
from robust_eval.core.errors import UserError

TRAINED = ("preact-resnet-18", "wrn-34-10")


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", choices=[work.name for work in WORKS], help="run only this case")
    parser.add_argument("--examples", type=options.count, help="examples per case")
    parser.add_argument(
        "--threads", type=options.count, help="CPU threads of each side (default: the choice of torch)"
    )
    parser.add_argument(
        "--device", type=options.device, default="auto", help="auto (a GPU if there is one), cpu or cuda"
    )
    parser.add_argument("--sides", help=f"implementations to run, comma-separated, of {', '.join(SIDES)}")
    parser.add_argument("--data-root", type=Path, help="folder that contains the datasets")
    parser.add_argument("--cifar", help="32 x 32 colour images: npz:FILE, folder:DIR or cifar10")
    parser.add_argument(
        "--checkpoint", type=options.file, help="attack this checkpoint; needs --data and --eps"
    )
    parser.add_argument("--data", help="images for --checkpoint")
    parser.add_argument("--eps", type=options.epsilon, help="Linf epsilon for --checkpoint")
    parser.add_argument(
        "--suite", choices=SUITES, default="full", help="full (default) or a column id, for --checkpoint"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmark"), help="folder for models and figures"
    )
    given = parser.parse_args(words)
    if given.checkpoint and not (given.data and given.eps):
        parser.error("--checkpoint needs --data and --eps")
    if given.sides is not None:
        given.sides = tuple(side.strip() for side in given.sides.split(","))
        for side in given.sides:
            if side not in SIDES:
                parser.error(f"unknown side '{side}': choose from {', '.join(SIDES)}")
        if not works(given):
            parser.error(f"{' and '.join(given.sides)} cannot run these cases: they only run PGD-20")
    return given


def works(given: argparse.Namespace) -> list[Work]:
    """The selected cases, each with the sides that can run it."""
    if given.checkpoint:
        chosen = [Work(given.checkpoint.stem, given.suite, given.data, given.eps, 100)]
    else:
        fits = [work for work in WORKS if given.device != "cpu" or not work.gpu]
        chosen = [work for work in WORKS if work.name == given.work] or fits
    found = []
    for work in chosen:
        sides = tuple(side for side in given.sides or work.sides if _can_run(side, work))
        if sides:
            found.append(replace(work, examples=given.examples or work.examples, sides=sides))
    return found


def _can_run(side: str, work: Work) -> bool:
    return not SIDES[side].peer or work.suite in PEERS_DO


def child(
    module: Sequence[str], *words: str, threads: int | None = None, python: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a module in its own process, and capture its output."""
    # OpenMP threads that spin while waiting slow small networks down many times on shared cores.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(Path.cwd()), **os.environ}
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [str(python or sys.executable), "-m", *module, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def prepare(work: Work, given: argparse.Namespace, folder: Path) -> str:
    """Write model.pt and images.npz to the folder. Returns the reason if that is impossible, else ''."""
    data, checkpoint = work.data, given.checkpoint
    if data == "cifar":
        if given.cifar is None:
            return "This case needs --cifar IMAGES."
        data, checkpoint = given.cifar, _bundled_resnet()
        if checkpoint is None:
            return "The installed pyautoattack does not contain its example model."
    folder.mkdir(parents=True, exist_ok=True)
    words = ["--data", data, "--eps", work.eps, "--examples", str(work.examples), "--folder", str(folder)]
    words += ["--data-root", str(given.data_root.resolve())] if given.data_root else []
    words += ["--checkpoint", str(checkpoint.resolve())] if checkpoint else []
    done = child(["benchmarks.evaluation.inputs"], *words, threads=given.threads)
    return options.last_line(done.stderr) if done.returncode else ""


def _bundled_resnet() -> Path | None:
    spec = find_spec("pyautoattack")
    path = Path(spec.origin).parent / "examples" / "model_test.pt" if spec and spec.origin else None
    return path if path is not None and path.exists() else None


def measure(work: Work, given: argparse.Namespace, console: Console) -> dict[str, Report]:
    """Run all sides of a case. Unavailable cases and sides are reported on the console and skipped."""
    folder = (given.out / work.name.replace(" ", "-")).resolve()
    console.print(f"{work.name}: model and {work.examples} images")
    problem = prepare(work, given, folder)
    if problem and given.checkpoint:
        raise UserError(problem)
    if problem:
        console.print(f"[yellow]{work.name}: skipped.[/] {problem}")
        return {}
    reports = {}
    for name in work.sides:
        side, out = SIDES[name], folder / f"{name.replace(' ', '-')}.json"
        console.print(f"{work.name}: {name}")
        try:
            python = peer_environment.python((given.out / "peers").resolve()) if side.peer else None
        except subprocess.CalledProcessError as error:
            console.print(f"[yellow]{name}: skipped.[/] {options.last_line(error.stderr or '')}")
            continue
        words = ["--folder", str(folder), "--suite", work.suite, "--eps", work.eps, "--out", str(out)]
        words += ["--batch-size", str(work.batch_size), "--precision", side.precision]
        words += ["--device", given.device]
        done = child(side.module, *words, threads=given.threads, python=python)
        if done.returncode == UserError.exit_code:
            raise UserError(options.last_line(done.stderr))
        if done.returncode:
            sys.exit(f"{work.name}: {name} failed.\n{done.stderr}")
        reports[name] = Report.read(out)
    return reports


def matrix_rates(given: argparse.Namespace) -> Mapping[str, float]:
    """Operations per second of large matrix products, by precision; empty if the measurement fails."""
    done = child(["benchmarks.evaluation.matrix_rate"], given.device, threads=given.threads)
    rates: dict[str, float] = {} if done.returncode else json.loads(done.stdout.splitlines()[-1])
    return rates


def main(words: Sequence[str] | None = None) -> None:
    given, console = parse(words), Console()
    # Without a terminal rich assumes 80 characters, too few for ten columns.
    console = console if console.is_terminal else Console(width=120)
    options.folder(given.out)
    rates, figures = matrix_rates(given), []
    for work in works(given):
        reports = measure(work, given, console)
        if reports:
            console.print(table(work, reports, rates))
            sides = {side: asdict(report) for side, report in reports.items()}
            figures.append({"work": asdict(work), "sides": sides})
    machine = {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "threads": given.threads,
        "device": given.device,
        "matrix_rates": rates,
    }
    path = given.out / "benchmark.json"
    path.write_text(json.dumps({"machine": machine, "works": figures}, indent=1) + "\n", encoding="utf-8")
    console.print(f"Figures: {path}")
    if given.device != "cpu" and not given.work and not given.checkpoint:
        # On a CPU, training steps take many minutes and are measured with benchmarks.training.step.
        for arch in TRAINED:
            step.main(training_words(arch, given.device, given.out))


def training_words(arch: str, device: str, out: Path) -> list[str]:
    """Arguments of ``benchmarks.training.step`` for AT and AT-AWP with the settings of the papers."""
    words = ["--arch", arch, "--device", device, "--batch-size", "128", "--repeats", "20"]
    return [*words, "--out", str(out / f"training-{arch}.json")]


if __name__ == "__main__":
    options.guarded(main)
