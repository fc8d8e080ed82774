"""Classification tasks: generated here but for the digits, a data set for each seed."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from math import ceil

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fractalkern.errors import InputError
from fractalkern.experiments.names import require_name

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Window = tuple[float, float, float, float]  # x from, to, y from, to


@dataclass(frozen=True)
class Task:
    """What is learned.

    Attributes:
        name: its name.
        dims: inputs.
        classes: 2 for one logit, else as many logits.
        window: where the boundary is looked at; None unless there are two inputs.
        make: make(samples, noise, generator) -> inputs `[N, dims]`, labels `[N]`.
    """

    name: str
    dims: int
    classes: int
    window: Window | None
    make: Callable[[int, float, np.random.RandomState], tuple[Floats, Labels]]

    @property
    def logits(self) -> int:
        """Outputs of a network."""
        return 1 if self.classes == 2 else self.classes


@dataclass(frozen=True, eq=False)
class DataSets:
    """Splits of S data sets: inputs float32 `[S, N, dims]` and labels int64 `[S, N]`.

    `validation` has no rows where the protocol has none.
    """

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def to(self, device: str) -> "DataSets":
        """The same on a device."""
        parts = (self.train, self.validation, self.test)
        return DataSets(*((x.to(device), y.to(device)) for x, y in parts))


def data_sets(
    task: Task, seeds: list[int], samples: int, noise: float, shares: tuple[float, float]
) -> DataSets:
    """A data set a seed, split by a permutation of the same seed.

    Args:
        task: what to draw.
        seeds: 0 to 2^32 - 1, of NumPy's RandomState, whose stream is fixed for good.
        samples: of each.
        noise: standard deviation; its scale is the task's.
        shares: of the test and validation sets; what is left is for training.

    The first of a permutation are the test set, as in scikit-learn's train_test_split.
    """
    test, validation = (ceil(samples * share) for share in shares)
    parts: list[list[tuple[Tensor, Tensor]]] = [[], [], []]
    for seed in seeds:
        x, y = task.make(samples, noise, np.random.RandomState(seed))
        order = np.random.RandomState(seed).permutation(len(y))
        for part, places in zip(parts, np.split(order, [test, test + validation])[:3], strict=True):
            part.append((torch.from_numpy(x[places]).float(), torch.from_numpy(y[places])))
    tested, validated, trained = (
        (torch.stack([x for x, _ in part]), torch.stack([y for _, y in part])) for part in parts
    )
    return DataSets(trained, validated, tested)


def moons(samples: int, noise: float, random: np.random.RandomState) -> tuple[Floats, Labels]:
    """Two interleaved half circles: the very numbers of scikit-learn's make_moons."""
    outer = samples // 2
    first, second = (np.linspace(0, np.pi, n) for n in (outer, samples - outer))
    x = np.concatenate([np.cos(first), 1 - np.cos(second)])
    y = np.concatenate([np.sin(first), 1 - np.sin(second) - 0.5])
    points, labels = np.stack([x, y], 1), (np.arange(samples) >= outer).astype(np.int64)
    order = np.arange(samples)
    random.shuffle(order)
    return points[order] + random.normal(scale=noise, size=points.shape), labels[order]


def circles(samples: int, noise: float, random: np.random.RandomState) -> tuple[Floats, Labels]:
    """A circle of radius 1 and one of radius 0.3 within."""
    labels = random.permutation(np.arange(samples) % 2)
    angle, radius = random.uniform(0, 2 * np.pi, samples), np.where(labels == 1, 0.3, 1.0)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return points + random.normal(scale=noise, size=points.shape), labels


def spirals(samples: int, noise: float, random: np.random.RandomState) -> tuple[Floats, Labels]:
    """Two arms of one and a half turns, from radius 0.1 to 1; a tenth of the noise."""
    labels = random.permutation(np.arange(samples) % 2)
    along = np.sqrt(random.uniform(0, 1, samples))
    angle = 3 * np.pi * along + np.pi * labels
    points = (0.1 + 0.9 * along)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return points + random.normal(scale=noise / 10, size=points.shape), labels


def checkerboard(
    samples: int, noise: float, random: np.random.RandomState
) -> tuple[Floats, Labels]:
    """Four by four squares of [-1, 1]^2; a tenth of the noise moves points across their sides."""
    points = random.uniform(-1, 1, (samples, 2))
    labels = np.floor(2 * (points + 1)).astype(np.int64).sum(1) % 2
    return points + random.normal(scale=noise / 10, size=points.shape), labels


def gaussian_xor(
    dims: int,
) -> Callable[[int, float, np.random.RandomState], tuple[Floats, Labels]]:
    """Four normal clouds about (+-1, +-1) in the first two axes, the others pure noise.

    The label is whether the two signs differ; three times the noise is the deviation of all axes.
    """

    def make(samples: int, noise: float, random: np.random.RandomState) -> tuple[Floats, Labels]:
        corners = random.randint(0, 2, (samples, 2))
        points = random.normal(scale=3 * noise, size=(samples, dims))
        points[:, :2] += 2 * corners - 1
        return points, (corners.sum(1) % 2).astype(np.int64)

    return make


def digits(samples: int, noise: float, random: np.random.RandomState) -> tuple[Floats, Labels]:
    """`samples` of scikit-learn's 1,797 digits of 8 x 8 grey values, scaled to [0, 1], no noise."""
    try:
        load_digits = import_module("sklearn.datasets").load_digits
    except ImportError as error:
        raise InputError(
            "task must be one whose data are there, got 'digits' without scikit-learn: "
            f"pip install scikit-learn ({error})"
        ) from error
    pictures, labels = load_digits(return_X_y=True)
    chosen = random.permutation(len(labels))[:samples]
    if len(chosen) < samples:
        raise InputError(f"samples must be at most {len(labels)} for task 'digits', got {samples}")
    return pictures[chosen] / 16.0, labels[chosen].astype(np.int64)


XOR_DIMS = (2, 4, 8, 16, 32)
_SQUARE = (-1.5, 1.5, -1.5, 1.5)
TASKS = {
    task.name: task
    for task in (
        Task("moons", 2, 2, (-1.5, 2.5, -1.0, 1.5), moons),
        Task("circles", 2, 2, _SQUARE, circles),
        Task("spirals", 2, 2, _SQUARE, spirals),
        Task("checkerboard", 2, 2, (-1.0, 1.0, -1.0, 1.0), checkerboard),
        *(
            Task(f"xor-{d}", d, 2, (-2.5, 2.5, -2.5, 2.5) if d == 2 else None, gaussian_xor(d))
            for d in XOR_DIMS
        ),
        Task("digits", 64, 10, None, digits),
    )
}


def task_named(name: str) -> Task:
    """The task of that name.

    Raises:
        InputError: there is none; the sentence names the nearest.
    """
    return TASKS[require_name("task", name, TASKS)]
