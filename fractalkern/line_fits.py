"""Straight lines through points, and the slopes between them: what every dimension is read from."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from fractalkern.errors import InputError

MIN_POINTS = 3  # two leave no degree of freedom for the standard error


class Line(NamedTuple):
    """Least-squares lines, one for each row of points; all float64 [*batch]."""

    slope: Tensor
    stderr: Tensor  # of the slope, from the residuals; NaN for 2 points
    intercept: Tensor
    r2: Tensor  # 1 where all values are equal


def fit_line(x: Tensor, y: Tensor) -> Line:
    """Ordinary least squares of y [*batch, S] on x [S].

    >>> import torch
    >>> from fractalkern.line_fits import fit_line
    >>> float(fit_line(torch.tensor([0.0, 1, 2]), torch.tensor([1.0, 3, 5])).slope)
    2.0
    """
    centre, level = x.mean(), y.mean(-1, keepdim=True)
    dx, dy = x - centre, y - level
    spread = dx.square().sum()
    slope = (dx * dy).sum(-1) / spread
    residual = (dy - slope[..., None] * dx).square().sum(-1)
    total = dy.square().sum(-1)
    return Line(
        slope=slope,
        stderr=(residual / (len(x) - 2) / spread).sqrt(),
        intercept=level[..., 0] - slope * centre,
        r2=torch.where(total > 0, 1 - residual / total, 1.0),
    )


def local_slopes(x: Tensor, y: Tensor) -> Tensor:
    """dy/dx of y [*batch, S]: second order inside for uneven x [S], one-sided at both ends."""
    step = x.diff()
    secant = y.diff() / step
    inner = (step[1:] * secant[..., :-1] + step[:-1] * secant[..., 1:]) / (step[1:] + step[:-1])
    return torch.cat([secant[..., :1], inner, secant[..., -1:]], -1)


@dataclass(frozen=True, eq=False)
class DimensionFit:
    """Minus the slopes of lines through points in log-log axes; `float()` gives the only one.

    Attributes:
        dimension: minus the slope, float64 [*batch].
        stderr: its standard error from the residuals, float64 [*batch]. Points of one array at
            several sizes are correlated, so this understates the error: see it as a fit quality.
        r2: coefficient of determination, float64 [*batch]; 1 where all points are level.
        local_slopes: minus the slope at each point, float64 [*batch, S].
    """

    dimension: Tensor
    stderr: Tensor
    r2: Tensor
    local_slopes: Tensor
    _of: ClassVar[str] = "dimension"  # what `float()` wants one of

    @classmethod
    def through(cls, x: Tensor, y: Tensor, **others: Any) -> Self:
        """Fitted to the logarithms y [*batch, S] over x [S]; `others` are the other fields."""
        line = fit_line(x, y)
        return cls(
            dimension=0.0 - line.slope,  # not -slope, which is -0.0 for level points
            stderr=line.stderr,
            r2=line.r2,
            local_slopes=0.0 - local_slopes(x, y),
            **others,
        )

    def __float__(self) -> float:
        """The dimension, if there is just one."""
        return the_only(self.dimension, self._of)


def the_only(values: Tensor, what: str = "dimension") -> float:
    """The value of a result for one array, which is what `float()` of a result gives.

    Raises:
        InputError: the result is for none or for several.
    """
    if values.numel() != 1:
        raise InputError(f"float() needs one {what}, this result has {values.numel()}")
    return float(values.item())
