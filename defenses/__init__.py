"""Adversarial training: recipes, training, sweeps, and reports of finished runs.

May import ``robust_eval.{core, data, models, results}``; ``robust_eval`` never imports this package.
"""
