"""Measure, seed, steer and render the fractal geometry of neural-network training."""

from fractalkern._native import build_info, set_instruction_set
from fractalkern.backends import use_backend
from fractalkern.errors import BackendError, DegenerateBoundaryError, InputError, InputTypeError
from fractalkern.ops.train_sweep import SweepResult, train_sweep

__version__: str = build_info()["version"]

__all__ = [
    "BackendError",
    "DegenerateBoundaryError",
    "InputError",
    "InputTypeError",
    "SweepResult",
    "__version__",
    "build_info",
    "set_instruction_set",
    "train_sweep",
    "use_backend",
]
