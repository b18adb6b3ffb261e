"""Verify a published result, re-attack its robust examples (audit), and test the evaluator itself (selftest).

May import ``core``, ``data``, ``results``, ``models``, ``attacks`` and ``evaluation``.
"""
