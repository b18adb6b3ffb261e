"""Figures and tables of finished training runs.

May import the other folders of ``defenses`` except ``cli``, and
``robust_eval.{core, data, models, results}``.
"""
