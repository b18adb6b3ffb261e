"""Train a recipe: the job, the loop over epochs, and the files of a run folder.

May import ``defenses.objectives``, ``defenses.recipes``, ``defenses.runs`` and ``robust_eval`` packages other
than ``attacks`` and ``evaluation``.
"""
