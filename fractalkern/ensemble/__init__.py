"""Train R copies of a model at once, each with its own seed and hyper-parameters."""

from fractalkern.ensemble.data import Data
from fractalkern.ensemble.engine import Ensemble, View
from fractalkern.ensemble.optimizers import SGD, Adam, AdamW, Optimizer
from fractalkern.ensemble.penalties import Context, SpectralPenalty
from fractalkern.ensemble.result import Result
from fractalkern.ensemble.schedules import Schedule

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Context",
    "Data",
    "Ensemble",
    "Optimizer",
    "Result",
    "Schedule",
    "SpectralPenalty",
    "View",
]
