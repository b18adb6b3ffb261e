"""Figures of finished training runs: learning curves, sweeps, and the gap against flatness."""
