"""Tables 1 to 5 of the AWP paper, filled with the user's runs next to the published values.

May import ``defenses.{recipes, runs, training}`` and ``robust_eval.{core, data, models, results}``.
"""
