"""Benchmarks of evaluations: time, memory and verdicts compared with other implementations.

May import ``benchmarks.options`` and ``robust_eval``.
"""
