"""Benchmarks of several workers: Ray on one machine, and a simulation of up to 1,000 GPUs.

May import ``benchmarks.options`` and ``robust_eval``.
"""
