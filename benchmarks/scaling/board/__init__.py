"""Parts of the leaderboard simulation: work units, measured times, and the scheduler."""
