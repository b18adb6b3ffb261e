"""Benchmarks of evaluations: time, memory and verdicts compared with other implementations."""
