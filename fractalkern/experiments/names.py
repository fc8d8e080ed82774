"""Names that a user types, checked against those that exist."""

import difflib
from collections.abc import Iterable

from fractalkern.errors import InputError


def require_name(argument: str, name: str, known: Iterable[str]) -> str:
    """`name` itself.

    Raises:
        InputError: it is none of the known ones; the sentence has them all, and the nearest.

    >>> from fractalkern.experiments.names import require_name
    >>> require_name("task", "moons", ("moons", "circles"))
    'moons'
    """
    names = list(known)
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise InputError(f"{argument} must be one of {', '.join(names)}, got {name!r}{hint}")
