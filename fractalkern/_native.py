"""Loads the compiled half, with one actionable error."""

import torch  # noqa: F401  # libtorch must be in the process before the library that needs it

try:
    from fractalkern._C import build_info, cuda_runtime_info, set_instruction_set
except ImportError as error:
    raise ImportError(
        f"fractalkern's compiled library could not be loaded ({error}). Rebuild it against this "
        "Python and torch with `pip install --no-build-isolation -e .` in the source folder."
    ) from error

__all__ = ["build_info", "cuda_runtime_info", "set_instruction_set"]
