"""From options to a request and its units: pure functions, apart from timing in ``cost``.

May import ``core``, ``models`` and ``attacks``; nothing else of ``evaluation``.
"""
