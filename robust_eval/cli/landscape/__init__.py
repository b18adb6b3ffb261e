"""``robust-eval landscape``: one file per subcommand; they share ``frame.py`` and ``options.py``.

May import every package of ``robust_eval``; torch and matplotlib are imported when a subcommand runs.
"""
