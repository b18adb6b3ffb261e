"""Parts of the leaderboard simulation: units, measured times, and the scheduler.

May import ``robust_eval``.
"""
