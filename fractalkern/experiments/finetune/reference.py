"""What was published of the grids of fractal-llm, and what its pictures show when read back."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """One grid of 64 x 64 runs of a model of 561 million parameters.

    Attributes:
        name: and schedule.
        converged: percent.
        pixels: of the boundary, image frame included.
        dimension: as published; of the last two as the same rule gives it on their pictures.
        sign_edges: the slope without the rule's two biases, of the picture; None: no picture.
    """

    name: str
    converged: float
    pixels: int
    dimension: str
    sign_edges: float | None


PUBLISHED = (
    Grid("parent, cosine", 77.5, 333, "1.21", 1.000),
    Grid("parent, constant", 72.5, 322, "1.20", None),
    Grid("box 1", 91.1, 307, "1.202", 1.175),
    Grid("box 1-2", 49.5, 1079, "1.575", 1.643),
)
