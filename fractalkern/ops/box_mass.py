"""`box_masses` and `gliding_moments`: public functions, validation and fake kernels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor

from fractalkern import _native  # noqa: F401  # registers the ops that the fake kernels belong to
from fractalkern.backends import resolve
from fractalkern.errors import InputTypeError
from fractalkern.memory import require_memory
from fractalkern.ops._boxes import (
    checked_offsets,
    checked_sizes,
    checked_spatial_dims,
    powers_of_two,
    sizes_on,
    smallest_side,
)
from fractalkern.ops._inputs import FLOAT_DTYPES, INTEGER_DTYPES, as_tensor
from fractalkern.reference.box_count import axis_origins
from fractalkern.reference.box_mass import box_mass as reference_box_mass
from fractalkern.reference.box_mass import gliding_mass as reference_gliding_mass

OP = "box_masses"
GLIDING = "gliding_moments"


@dataclass(frozen=True, eq=False)
class BoxMasses:
    """Masses of the boxes of one array or of a batch; the tensors are on the array's device.

    Attributes:
        sizes: box sides in cells, int64 [S].
        flat: the mass of every box, int64 or float64 [*batch, T]: size after size, the grids of a
            size in row-major order of their origins, the boxes of a grid in row-major order.
        spatial_shape: sides of the array, in cells.
        offsets: origins per axis and size; 0 stands for all.
    """

    sizes: Tensor
    flat: Tensor
    spatial_shape: tuple[int, ...]
    offsets: int

    @property
    def per_size(self) -> list[Tensor]:
        """One [*batch, boxes of all grids] a size: views of `flat`."""
        sizes = self.sizes.tolist()
        lengths = [_boxes_of_size(self.spatial_shape, size, self.offsets) for size in sizes]
        return list(torch.split(self.flat, lengths, -1))

    def grids(self, index: int) -> list[Tensor]:
        """The grids of size number `index`, each [*batch, *boxes]: views of `flat`."""
        size = int(self.sizes[index])
        origins = product(axis_origins(size, self.offsets), repeat=len(self.spatial_shape))
        boxes = [
            [-(-(side + o) // size) for side, o in zip(self.spatial_shape, grid, strict=True)]
            for grid in origins
        ]
        parts = torch.split(self.per_size[index], [math.prod(shape) for shape in boxes], -1)
        return [torch.unflatten(part, -1, shape) for part, shape in zip(parts, boxes, strict=True)]


def box_masses(
    weights: Any,
    sizes: Any = None,
    *,
    spatial_dims: int | None = None,
    offsets: int | Literal["all"] = 1,
    backend: str | None = None,
) -> BoxMasses:
    """Sums the weights in every box of a grid, for every size.

    M(s, o, j) = sum of the weights at the cells of box j of side s in the grid that starts at -o:
    along each axis cells j s - o to (j + 1) s - o - 1. Boxes at the ends may be partial, so the
    masses of a grid add up to the whole. Every statistic of box masses follows from the result:
    `box_count` counts where they are not zero, `generalized_dimensions` adds their powers.

    Args:
        weights: [*batch, *spatial], any strides, tensor or NumPy array: bool counts the cells that
            are True, integers and floats are weights.
        sizes: box sides s in cells, each from 1 to the smallest spatial side; by default all
            powers of two up to that side.
        spatial_dims: how many trailing axes are spatial, 1 to 5; by default all.
        offsets: origins per axis and size: origin j of size s is floor(j * s / offsets),
            duplicates dropped; "all" means 0 to s - 1. Every combination over the axes is a grid.
        backend: "native" or "reference"; by default that of `use_backend`, else "native".

    Returns:
        BoxMasses. Bool and integers give int64, added modulo 2^64: equal for every backend, device
        and thread count. Floats give float64, added in an order that no thread count changes.

    Boxes that nest in those of a smaller size of the list are added up from them. The result takes
    8 bytes a box.

    Raises:
        InputTypeError: an argument of a wrong type or dtype.
        InputError: a wrong value, such as a size larger than the array, or a result that would not
            fit in this machine's memory.

    Source: T. C. Halsey, M. H. Jensen, L. P. Kadanoff, I. Procaccia and B. I. Shraiman, Fractal
    measures and their singularities, Physical Review A 33 (1986) 1141.

    >>> import fractalkern as fk, torch
    >>> masses = fk.box_masses(torch.eye(4, dtype=torch.bool), sizes=[2])
    >>> masses.grids(0)[0].tolist()
    [[2, 0], [0, 2]]
    """
    cells, dims = checked_weights(OP, "weights", weights, spatial_dims, floats=True)
    side = smallest_side(OP, "weights", cells, dims)
    box_sizes = powers_of_two(side) if sizes is None else checked_sizes(OP, "weights", sizes, side)
    origins = min(checked_offsets(OP, offsets), max(box_sizes))  # more origins are all duplicates
    batch, spatial = cells.shape[: cells.ndim - dims], cells.shape[cells.ndim - dims :]
    boxes = sum(_boxes_of_size(spatial, size, origins) for size in box_sizes)
    if not torch.compiler.is_compiling():  # which cannot trace a system call
        what = f"{OP}: offsets={offsets!r}, {boxes} boxes an array,"
        require_memory(what, 8 * math.prod(batch) * boxes, cells.device)

    if resolve("box_mass", backend, cells.device) == "reference":
        flat = reference_box_mass(cells, dims, box_sizes, origins)
    else:
        flat = torch.ops.fractalkern.box_mass(cells.contiguous(), dims, box_sizes, origins)
    return BoxMasses(
        sizes=sizes_on(cells.device, box_sizes),
        flat=flat.reshape(*batch, boxes),
        spatial_shape=tuple(spatial),
        offsets=origins,
    )


@dataclass(frozen=True, eq=False)
class GlidingMoments:
    """Exact moments of the mass of a gliding box; the tensors are on the array's device.

    Attributes:
        sizes: box sides in cells, int64 [S].
        positions: of the box, int64 [*batch, S].
        mass: sum of the masses over all positions, int64 [*batch, S].
        square: sum of the squares of the masses, int64 [*batch, S, 2]: div 2^62 and mod 2^62.
        spatial_shape: sides of the array, in cells.
    """

    sizes: Tensor
    positions: Tensor
    mass: Tensor
    square: Tensor
    spatial_shape: tuple[int, ...]


def gliding_moments(
    weights: Any,
    sizes: Any = None,
    *,
    spatial_dims: int | None = None,
    backend: str | None = None,
) -> GlidingMoments:
    """First and second moment of the mass of a box over all its positions inside the array.

    Args:
        weights: [*batch, *spatial], any strides, tensor or NumPy array: bool counts the cells that
            are True, integers are weights.
        sizes: box sides in cells, each from 1 to the smallest spatial side; by default all powers
            of two up to that side.
        spatial_dims: how many trailing axes are spatial, 1 to 5; by default all.
        backend: "native" or "reference"; by default that of `use_backend`, else "native".

    Returns:
        GlidingMoments, equal for every backend, device and thread count. They are exact while the
        sum of all masses is below 2^63; `lacunarity` checks that. The cost of a size does not
        depend on the size.

    Raises:
        InputTypeError, InputError: as `box_masses`; floats are refused.

    Source: C. Allain and M. Cloitre, Characterizing the lacunarity of random and deterministic
    fractal sets, Physical Review A 44 (1991) 3552.

    >>> import torch
    >>> from fractalkern.ops.box_mass import gliding_moments
    >>> gliding_moments(torch.tensor([1, 0, 2, 1]), sizes=[2]).mass.tolist()
    [6]
    """
    cells, dims = checked_weights(GLIDING, "weights", weights, spatial_dims)
    side = smallest_side(GLIDING, "weights", cells, dims)
    box_sizes = (
        powers_of_two(side) if sizes is None else checked_sizes(GLIDING, "weights", sizes, side)
    )
    batch, spatial = cells.shape[: cells.ndim - dims], cells.shape[cells.ndim - dims :]
    if resolve("box_mass", backend, cells.device) == "reference":
        moments = reference_gliding_mass(cells, dims, box_sizes)
    else:
        moments = torch.ops.fractalkern.gliding_mass(cells.contiguous(), dims, box_sizes)
    moments = moments.reshape(*batch, len(box_sizes), 4)
    return GlidingMoments(
        sizes=sizes_on(cells.device, box_sizes),
        positions=moments[..., 0],
        mass=moments[..., 1],
        square=moments[..., 2:],
        spatial_shape=tuple(spatial),
    )


@torch.library.register_fake("fractalkern::box_mass")
def _box_mass_fake(
    weights: Tensor, spatial_dims: int, sizes: Sequence[int], offsets: int
) -> Tensor:
    leading = weights.ndim - spatial_dims
    boxes = sum(_boxes_of_size(weights.shape[leading:], size, offsets) for size in sizes)
    dtype = torch.float64 if weights.dtype == torch.float64 else torch.int64
    return weights.new_empty((math.prod(weights.shape[:leading]), boxes), dtype=dtype)


@torch.library.register_fake("fractalkern::gliding_mass")
def _gliding_mass_fake(weights: Tensor, spatial_dims: int, sizes: Sequence[int]) -> Tensor:
    batch = math.prod(weights.shape[: weights.ndim - spatial_dims])
    return weights.new_empty((batch, len(sizes), 4), dtype=torch.int64)


def _boxes_of_size(spatial: Sequence[int], size: int, offsets: int) -> int:
    """Boxes of all grids: the grids are all combinations of origins, so the sum is a product."""
    origins = axis_origins(size, offsets)
    # Lists, as torch.compile cannot trace a generator inside another.
    along = [sum([-(-(side + origin) // size) for origin in origins]) for side in spatial]
    return math.prod(along)


def checked_weights(
    op: str, name: str, weights: Any, spatial_dims: int | None, *, floats: bool = False
) -> tuple[Tensor, int]:
    """The weights in a dtype that the kernels take, and the number of spatial axes.

    The dtype is bool, uint8, int64 or float64. Values above 2^63 of uint64 turn negative.
    """
    cells = as_tensor(op, name, weights)
    allowed = INTEGER_DTYPES + (FLOAT_DTYPES if floats else ())
    if cells.dtype != torch.bool and cells.dtype not in allowed:
        kinds = "bool, integer or floating point" if floats else "bool or integer"
        raise InputTypeError(f"{op}: {name} must be {kinds}, got {cells.dtype}")
    dims = checked_spatial_dims(op, name, cells, spatial_dims)
    if cells.is_floating_point():
        return cells.double(), dims
    if cells.dtype not in (torch.bool, torch.uint8):
        cells = cells.to(torch.int64)
    return cells, dims
