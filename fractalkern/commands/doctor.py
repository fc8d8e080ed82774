"""`fractalkern doctor`: what was built, what was found, what is missing."""

from fractalkern.commands.arguments import parsed
from fractalkern.doctor import report


def doctor() -> None:
    """Prints what was built, what was found, and what each missing part would need."""


def run(arguments: list[str]) -> int:
    """Runs the verb; returns the exit code."""
    parsed("doctor", doctor, arguments)
    print(report())
    return 0
