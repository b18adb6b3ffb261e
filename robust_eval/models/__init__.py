"""Networks: architectures, loading of checkpoint files, and the accelerated copy that attacks use.

May import ``core`` and ``data``.
"""
