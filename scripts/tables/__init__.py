"""Generators of the Markdown tables in README.md and docs/.

May import ``robust_eval.{core, leaderboard, results}`` and ``defenses.reports``; the table of planted models
also ``robust_eval.{data, evaluation, verification}``, because it measures them.
"""
