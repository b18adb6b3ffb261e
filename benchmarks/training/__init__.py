"""Benchmarks of training: time and memory of a step, and accuracy in float32 and bfloat16.

May import ``benchmarks.options``, the interface of a side in ``benchmarks.evaluation``, and both packages.
"""
