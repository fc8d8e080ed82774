"""Train R copies of a model at once, each with its own seed and hyper-parameters."""

from fractalkern.ensemble.data import Data
from fractalkern.ensemble.engine import Ensemble
from fractalkern.ensemble.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from fractalkern.ensemble.muon import Muon
from fractalkern.ensemble.optimizers import SGD, Adam, AdamW, Optimizer
from fractalkern.ensemble.penalties import Context, SpectralPenalty
from fractalkern.ensemble.result import Result
from fractalkern.ensemble.schedules import Schedule
from fractalkern.ensemble.view import View

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "BinaryCrossEntropy",
    "Context",
    "CrossEntropy",
    "Data",
    "Ensemble",
    "MeanSquaredError",
    "Muon",
    "Optimizer",
    "Result",
    "Schedule",
    "SpectralPenalty",
    "View",
]
