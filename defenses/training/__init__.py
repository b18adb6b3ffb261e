"""Train a recipe: the job, the loop over epochs, and the files of a run folder.

May import ``defenses.{objectives, recipes, runs}`` and ``robust_eval.{core, data, models, results}``.
"""
