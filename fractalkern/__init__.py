"""Measure, seed, steer and render the fractal geometry of neural-network training."""

from typing import TYPE_CHECKING

from fractalkern import _interrupt  # noqa: F401  # before torch is imported
from fractalkern._native import build_info, set_instruction_set
from fractalkern.backends import use_backend
from fractalkern.dimension import BoxDimension, DimensionResult, box_dimension, estimate_dimension
from fractalkern.edges import boundary
from fractalkern.errors import BackendError, DegenerateBoundaryError, InputError, InputTypeError
from fractalkern.lacunarity import Lacunarity, lacunarity
from fractalkern.multifractal import GeneralizedDimensions, generalized_dimensions
from fractalkern.ops.box_count import BoxCounts, box_count
from fractalkern.ops.box_mass import BoxMasses, box_masses
from fractalkern.ops.fractal_noise import fractal_noise
from fractalkern.ops.power_iteration import SpectralNorms, power_iteration
from fractalkern.ops.train_sweep import SweepResult, train_sweep
from fractalkern.point_clouds import CorrelationDimension, correlation_dimension
from fractalkern.series import (
    DetrendedFluctuation,
    HiguchiDimension,
    detrended_fluctuation,
    higuchi_dimension,
)
from fractalkern.spectra import (
    SpectrumFit,
    fractal_dimension_of,
    spectral_exponent_of,
    spectrum_of,
)
from fractalkern.spectral_norms import (
    SpectralNormRow,
    SpectralNormTable,
    spectral_norms,
    spectral_radius,
)
from fractalkern.surfaces import SurfaceDimension, differential_box_dimension

if TYPE_CHECKING:
    from fractalkern import ensemble, init, regularizers, scaling, synthetic
else:

    def __getattr__(name: str) -> object:
        """A submodule for users, imported when first used: `ensemble` alone takes 0.1 s."""
        from importlib import import_module

        if name in ("ensemble", "init", "regularizers", "scaling", "synthetic"):
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__: str = build_info()["version"]

__all__ = [
    "BackendError",
    "BoxCounts",
    "BoxDimension",
    "BoxMasses",
    "CorrelationDimension",
    "DegenerateBoundaryError",
    "DetrendedFluctuation",
    "DimensionResult",
    "GeneralizedDimensions",
    "HiguchiDimension",
    "InputError",
    "InputTypeError",
    "Lacunarity",
    "SpectralNormRow",
    "SpectralNormTable",
    "SpectralNorms",
    "SpectrumFit",
    "SurfaceDimension",
    "SweepResult",
    "__version__",
    "boundary",
    "box_count",
    "box_dimension",
    "box_masses",
    "build_info",
    "correlation_dimension",
    "detrended_fluctuation",
    "differential_box_dimension",
    "ensemble",
    "estimate_dimension",
    "fractal_dimension_of",
    "fractal_noise",
    "generalized_dimensions",
    "higuchi_dimension",
    "init",
    "lacunarity",
    "power_iteration",
    "regularizers",
    "scaling",
    "set_instruction_set",
    "spectral_exponent_of",
    "spectral_norms",
    "spectral_radius",
    "spectrum_of",
    "synthetic",
    "train_sweep",
    "use_backend",
]
