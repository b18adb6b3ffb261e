"""Helpers shared by several test files: small models, checkpoints, jobs, results, and scripted attacks.

May import both packages, but no test file.
"""
