"""The commands of ``robust-eval``, one file each: parse, call, print. No other package prints.

May import every package of ``robust_eval``; torch and the attack libraries are imported when a command runs.
"""
