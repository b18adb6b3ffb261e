"""Checks of the model and of the attacks on it: probes, diagnosis, same model, reduced precision.

May import everything in ``evaluation`` up to ``job``.
"""
