"""Verify a published result, re-attack its survivors (audit), and test the evaluator itself (selftest).

May import ``core``, ``data``, ``results``, ``models``, ``attacks`` and ``evaluation``.
"""
