"""The first code of a command: imports its libraries, and ends it well if Ctrl-C interrupts them."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NoReturn


def run_main(module: str) -> NoReturn:
    """Import a module and call its ``main``; Ctrl-C during the imports exits with 130 and one sentence."""
    try:
        import_module(module).main()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    finally:
        # Python ignores the exit code and ends by SIGINT if the last exec or eval of a text raised
        # KeyboardInterrupt, as one in a dataclass of a library may have done.
        exec("")
    sys.exit(0)
