"""``python -m defenses.cli``: the ``defenses`` command."""

from defenses.cli.main import main

if __name__ == "__main__":
    main()
