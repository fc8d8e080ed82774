"""The errors of bad input; each message names the argument, what was expected and what came."""


class InputError(ValueError):
    """An argument has a wrong value. The command line prints it in one line and exits with 2."""


class InputTypeError(InputError, TypeError):
    """An argument has a wrong type or dtype."""


class DegenerateBoundaryError(InputError):
    """A set has no boundary, or too little of one for the fit that was asked for."""


class BackendError(RuntimeError):
    """A backend was forced that is not available here."""
