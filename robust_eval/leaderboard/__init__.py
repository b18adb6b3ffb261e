"""Leaderboards: result files in, ranked tables and a web page out.

May import everything in ``robust_eval`` except ``verification``, ``landscape`` and ``cli``.
"""
