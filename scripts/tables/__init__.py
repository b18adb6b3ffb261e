"""Generators of the Markdown tables in README.md and docs/.

May import ``robust_eval.{core, leaderboard, results}`` and ``defenses.reports``.
"""
