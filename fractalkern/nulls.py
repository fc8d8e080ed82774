"""What a boundary without fractal structure would have given, as draws of its box-count slope."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fractalkern.synthetic import smooth_contours, with_noise

NullName = Literal["smooth", "smooth+noise", "marginal"]

_CHUNK = 2**22  # cells drawn at once
_JITTER = 0.2  # of the logarithm of the correlation length, about what one boundary tells of it


@dataclass(frozen=True, eq=False)
class Null:
    """Slopes that the null gave, and how the boundary's own slope lies among them.

    Attributes:
        name: "smooth", "smooth+noise" or "marginal".
        parameters: what was matched to the boundary or asked for: `length`, the correlation length
            in cells, `inside`, the share of cells inside, `noise_width` in cells.
        slopes: box-count slopes of the draws, float64 `[*batch, M]`.
        tail: "upper" where a fractal boundary has larger slopes than the null, else "lower".
    """

    name: NullName
    parameters: dict[str, Tensor]
    slopes: Tensor
    tail: Literal["upper", "lower"]

    def reshaped(self, batch: tuple[int, ...]) -> "Null":
        """The same with one more shape for the batch."""
        parameters = {
            key: value.reshape(batch) if value.ndim else value
            for key, value in self.parameters.items()
        }
        slopes = self.slopes.reshape((*batch, self.slopes.shape[-1]))
        return replace(self, parameters=parameters, slopes=slopes)

    def p_value(self, slope: Tensor) -> Tensor:
        """(1 + draws at least as extreme) / (1 + draws), `[*batch]`: never 0, one-sided."""
        beyond = self.slopes >= slope[..., None]
        if self.tail == "lower":
            beyond = self.slopes <= slope[..., None]
        return (1 + beyond.sum(-1).double()) / (1 + self.slopes.shape[-1])


def null_of(
    name: NullName,
    inside: Tensor,
    slope_of: Callable[[Tensor], Tensor],
    *,
    draws: int,
    noise_width: float,
    generator: torch.Generator,
) -> Null:
    """Draws for each of the masks bool `[B, H, W]`; `slope_of` maps masks `[M, H, W]` to `[M]`.

    - "smooth": level sets of smooth Gaussian fields with the same share of cells inside and about
      as many crossings of lines at the coarsest scale, an eighth of the side.
    - "smooth+noise": the same, each cell flipped with probability Phi(-|distance| / noise_width).
    - "marginal": every cell by itself, set with the frequency of its row.
    """
    slopes, lengths = [], []
    for mask in inside:
        length = _matched_length(mask)
        lengths.append(length)
        if name == "marginal":
            masks = _by_row(mask, draws, generator)
        else:
            width = noise_width if name == "smooth+noise" else None
            masks = _contours(mask, length, draws, width, generator)
        slopes.append(torch.cat([slope_of(chunk) for chunk in masks]))
    parameters: dict[str, Tensor] = {}
    if name != "marginal":
        parameters["length"] = torch.tensor(lengths, dtype=torch.float64)
        parameters["inside"] = inside.flatten(1).double().mean(1)
    if name == "smooth+noise":
        parameters["noise_width"] = torch.tensor(float(noise_width), dtype=torch.float64)
    return Null(name, parameters, torch.stack(slopes), "lower" if name == "marginal" else "upper")


def _matched_length(mask: Tensor) -> float:
    """Correlation length, in cells, of the smooth field that crosses coarse lines as often.

    A contour of length L in an area A crosses a line every pi A / 2 L cells (Crofton), and the
    level c of a Gaussian field has L / A = exp(-c^2 / 2) / 2 l (Rice).
    """
    side = min(mask.shape)
    lag = max(1, side // 8)
    flips = (mask[lag:] ^ mask[:-lag]).double().mean() + (
        mask[:, lag:] ^ mask[:, :-lag]
    ).double().mean()
    density = math.pi / 2 * max(float(flips) / 2 / lag, 1e-9)
    level = float(torch.special.ndtri(mask.double().mean().clamp(0.01, 0.99)))
    length = math.exp(-(level**2) / 2) / (2 * density)
    return min(max(length, side / 12), side / 2)


def _sizes(total: int, cells: int) -> Iterator[int]:
    step = max(1, min(total, _CHUNK // cells))
    for start in range(0, total, step):
        yield min(step, total - start)


def _contours(
    mask: Tensor, length: float, draws: int, width: float | None, generator: torch.Generator
) -> Iterator[Tensor]:
    """Masks of smooth contours, their cells flipped about the contour over `width` cells."""
    rows, columns = mask.shape
    share = float(mask.double().mean())
    for count in _sizes(draws, mask.numel()):
        masks = torch.empty(count, rows, columns, dtype=torch.bool)
        for one in masks:
            scale = length * math.exp(_JITTER * float(torch.randn((), generator=generator)))
            square = smooth_contours(
                1,
                max(rows, columns),
                generator,
                length=scale,
                inside=share,
                distances=width is not None,
            )
            field = square[0, :rows, :columns]
            if width is not None:
                field = with_noise(field, width, generator)
            torch.lt(field, 0, out=one)
        yield masks


def _by_row(mask: Tensor, draws: int, generator: torch.Generator) -> Iterator[Tensor]:
    chance = mask.float().mean(1, keepdim=True)
    for count in _sizes(draws, mask.numel()):
        yield torch.rand(count, *mask.shape, generator=generator) < chance
