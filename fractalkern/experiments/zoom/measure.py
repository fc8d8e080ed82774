"""A frame's dimension by both estimators: the one place that knows what an estimate holds."""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fractalkern.dimension import estimate_dimension
from fractalkern.edges import boundary
from fractalkern.errors import DegenerateBoundaryError


@dataclass(frozen=True)
class Measured:
    """What is known of a frame's boundary; None where there is no such number.

    Attributes:
        boundary_cells: 2 x 2 cells with both labels.
        dimension, stderr: ours, by `estimate_dimension`.
        ci_low, ci_high, p_value: interval and null, if `estimate_dimension` gives them.
        published_dimension: the published estimator's median of local slopes.
        published_slopes: these slopes, to be pooled over frames.
        missing_because: why there is no dimension.
    """

    boundary_cells: int
    dimension: float | None = None
    stderr: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    published_dimension: float | None = None
    published_slopes: tuple[float, ...] = ()
    missing_because: str | None = None

    def to_json(self) -> str:
        """For `from_json`, to the last bit."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Measured":
        """What `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "published_slopes": tuple(values["published_slopes"])})


def measure(converged: Tensor) -> Measured:
    """Measures the boundary of bool labels `[N, N]`."""
    cells = int(boundary(converged).sum())
    try:
        ours = estimate_dimension(converged)
        published = estimate_dimension(converged, estimator="sohl-dickstein")
    except DegenerateBoundaryError:
        return Measured(
            cells,
            missing_because=f"the boundary has only {cells} cells" if cells else "no boundary",
        )
    return Measured(
        cells,
        dimension=_number(ours, "dimension"),
        stderr=_number(ours, "stderr"),
        ci_low=_number(ours, "ci_low"),
        ci_high=_number(ours, "ci_high"),
        p_value=_number(ours, "p_value"),
        published_dimension=_number(published, "dimension"),
        published_slopes=tuple(float(slope) for slope in published.local_slopes),
    )


def point_estimates(converged: Tensor) -> tuple[float, float]:
    """Our dimension and that of the published estimator, of labels that have a boundary."""
    published = estimate_dimension(converged, estimator="sohl-dickstein")
    return float(estimate_dimension(converged, null=None)), float(published)


def _number(result: Any, name: str) -> float | None:
    value = getattr(result, name, None)
    if value is None or not math.isfinite(value):
        return None
    return float(value)
