"""What was measured before: by the authors, and in an independent check of their description.

The authors kept no results of the first sample code. Their later project, SPECTRA, reports
accuracies on its training sets: Adam, 100 epochs, lambda 0.1, of data of one seed.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """The comparison with a differentiable penalty, 5 seeds, 75 % for training: means over seeds.

    `accuracy_spread` is the standard deviation over seeds where the check states one.
    """

    test_accuracy: float
    accuracy_spread: float | None
    sensitivity: float
    sigma_1: float
    sigma_2: float
    sigma_output: float
    published_dimension: float
    edge_dimension: float


REFERENCES = {
    "none": Reference(0.9876, 0.0008, 17.2, 4.84, 12.80, 2.39, 1.10, 0.97),
    "target-0.5": Reference(0.849, None, 1.44, 0.78, 0.72, 4.96, 1.16, 0.99),
    "target-0.8": Reference(0.882, None, 2.06, 0.96, 0.94, 4.89, 1.19, 0.98),
    "target-1": Reference(0.897, 0.008, 2.55, 1.10, 1.10, 4.85, 1.17, 0.99),
    "target-1.2": Reference(0.921, None, 2.96, 1.28, 1.30, 4.74, 1.15, 1.00),
    "target-1.5": Reference(0.953, None, 3.80, 1.59, 1.56, 4.98, 1.18, 1.01),
    "target-2": Reference(0.971, None, 4.73, 2.07, 2.03, 4.36, 1.16, 1.02),
    "target-2.5": Reference(0.980, None, 5.82, 2.55, 2.55, 3.93, 1.13, 1.02),
}

# Difference of test accuracy between target 1 and no regularisation, by the same check.
REFERENCE_COST = REFERENCES["target-1"].test_accuracy - REFERENCES["none"].test_accuracy

# Accuracy on the training set in percent, as SPECTRA reports it, by study.
SPECTRA = {
    "schedules": (
        "two moons, 64 x 64, noise 0.1: fixed target 1 95.78 ± 0.77, linear 96.78 ± 0.38, "
        "exponential 95.96 ± 0.26, steps 95.86 ± 0.35; no arm without regularisation",
    ),
    "tasks": (
        "circles: none 100.0, linear schedule 99.80 ± 0.19",
        "two moons: 32 x 32 none 98.13, with the penalty 89.80; 8 x 8 none 88.10, 85.77",
        "a border map: none 80.34 ± 2.93, with the penalty 77.86 ± 0.00, the majority's share",
    ),
    "targets": ("two moons, 32 x 32: none 98.13, with the penalty (target 1) 89.80",),
    "baseline": ("two moons, 32 x 32: none 98.13, with the penalty (target 1) 89.80",),
}
