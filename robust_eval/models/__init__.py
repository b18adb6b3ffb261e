"""Networks: architectures, checkpoint loading, and the accelerated copy that attacks use.

May import ``core``, ``data`` and ``results``.
"""
