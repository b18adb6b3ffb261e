"""Benchmarks of training: time and memory of a step, and accuracy in float32 and bfloat16."""
