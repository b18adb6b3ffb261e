"""Loss landscapes: the adversarial loss as a function of a checkpoint's weights, with figures and JSON.

May import every package except ``verification``, ``leaderboard`` and ``cli``.
"""
