"""Shell scripts that train and evaluate the rows of the boards, and the page of their commands.

May import ``scripts.tables`` and ``robust_eval.leaderboard``.
"""
