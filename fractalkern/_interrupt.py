"""Ctrl-C while a command imports torch, which takes seconds: one line and 130, as `cli` does later.

`python -m fractalkern` imports this package before `__main__`, and the script before `cli`: only
the package itself can be early enough.
"""

import os
import sys
from types import TracebackType


def _is_command() -> bool:
    """Whether this process runs `fractalkern` or `python -m fractalkern`."""
    program = (sys.argv or [""])[0]
    if program == "-m":  # what it reads until the package is imported
        return sys.orig_argv[-len(sys.argv)].removeprefix("-m") == "fractalkern"
    return os.path.basename(program) == "fractalkern"


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print("fractalkern: stopped", file=sys.stderr)
    raise SystemExit(130)


if _is_command():
    sys.excepthook = _hook
