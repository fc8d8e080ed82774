"""Measure, seed, steer and render the fractal geometry of neural-network training."""

from fractalkern._native import build_info, set_instruction_set

__version__: str = build_info()["version"]

__all__ = ["__version__", "build_info", "set_instruction_set"]
