"""``defenses`` and ``python -m defenses.cli``: the entry point, which imports the command first."""

from robust_eval.core.entry_point import run_main


def main() -> None:
    """Run the command line."""
    run_main("defenses.cli.main")


if __name__ == "__main__":
    main()
