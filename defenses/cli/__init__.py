"""The commands of ``defenses``, one file each: parse the options, call, print. Only this folder prints.

Commands import the rest of the project when they run, so that ``--help`` is fast. They may import the other
folders of ``defenses`` and ``robust_eval.{core, data, models, results}``.
"""
