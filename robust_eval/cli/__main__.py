"""``robust-eval`` and ``python -m robust_eval.cli``: the entry point, which imports the command first."""

from robust_eval.core.entry_point import run_main


def main() -> None:
    """Run the command line."""
    run_main("robust_eval.cli.main")


if __name__ == "__main__":
    main()
