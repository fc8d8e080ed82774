"""Loads the compiled half, with one actionable error."""

import torch  # noqa: F401  # libtorch must be in the process before the library that needs it

try:
    from fractalkern._C import build_info, cuda_runtime_info
    from fractalkern._C import set_instruction_set as _set_instruction_set
except ImportError as error:
    raise ImportError(
        f"fractalkern's compiled library could not be loaded ({error}). Rebuild it against this "
        "Python and torch with `pip install --no-build-isolation -e .` in the source folder."
    ) from error

from fractalkern.errors import InputError, InputTypeError

__all__ = ["build_info", "cuda_runtime_info", "set_instruction_set"]


def set_instruction_set(name: str) -> None:
    """Makes the kernels run on one of `build_info()["supported_instruction_sets"]`.

    >>> import fractalkern as fk
    >>> fk.set_instruction_set(fk.build_info()["instruction_set"])

    Raises:
        InputError: there is no such instruction set, or this CPU lacks it.
        InputTypeError: not a name.
    """
    if not isinstance(name, str):
        known = ", ".join(build_info()["instruction_sets"])
        raise InputTypeError(f"set_instruction_set: name must be one of {known}, got {name!r}")
    try:
        _set_instruction_set(name)
    except ValueError as error:
        raise InputError(str(error)) from None
