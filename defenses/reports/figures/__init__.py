"""Figures of finished training runs: learning curves, sweeps, and the gap against flatness.

May import ``defenses.{runs, training, sweeps}`` and ``robust_eval.{core, data, models, results}``.
"""
