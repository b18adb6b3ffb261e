"""A leaderboard's worth of work, simulated: its units, the machine's speeds, the pool that works them off."""
