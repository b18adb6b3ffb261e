"""Training recipes: TOML files and the command line resolved into a checked ``Recipe``.

May import ``defenses.objectives`` and ``robust_eval.core``.
"""
