"""Sweeps: a recipe trained at several values of its fields.

May import ``defenses.{objectives, recipes, runs, training}`` and
``robust_eval.{core, data, models, results}``.
"""
