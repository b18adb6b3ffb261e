"""``python -m robust_eval.cli``: the ``robust-eval`` command."""

from robust_eval.cli.main import main

if __name__ == "__main__":
    main()
