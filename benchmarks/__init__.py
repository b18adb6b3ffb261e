"""Side-by-side measurements, run with ``python -m benchmarks`` or ``make bench``; not tests.

Every side runs in a process of its own, so that its peak memory is its own. The parent imports
nothing heavy: a child's peak starts from the memory of the process that started it.
"""
