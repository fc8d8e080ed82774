"""Gliding-box lacunarity: how unevenly a set fills space, beyond its dimension."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fractalkern.errors import InputError
from fractalkern.line_fits import local_slopes
from fractalkern.ops._boxes import checked_sizes, powers_of_two, smallest_side
from fractalkern.ops.box_mass import checked_weights, gliding_moments

_OP = "lacunarity"


@dataclass(frozen=True, eq=False)
class Lacunarity:
    """Lacunarity of one array or of a batch of them; the tensors are on the array's device.

    Attributes:
        sizes: box sides in cells, ascending, int64 [S].
        lacunarity: <M²> / <M>² over all positions, float64 [*batch, S]; at least 1.
        mean: <M>, the mean mass of a box, float64 [*batch, S].
        variance: <M²> - <M>², float64 [*batch, S].
        positions: of the box, int64 [S].
        local_slopes: d log lacunarity / d log size at each size, float64 [*batch, S]; dimension
            minus space dimension for a self-similar set. Empty for a single size.
    """

    sizes: Tensor
    lacunarity: Tensor
    mean: Tensor
    variance: Tensor
    positions: Tensor
    local_slopes: Tensor


def lacunarity(
    mask_or_weights: Any,
    sizes: Any = None,
    *,
    spatial_dims: int | None = None,
    backend: str | None = None,
) -> Lacunarity:
    """Lambda(r) = <M²> / <M>², M the mass of a box of side r, over all positions in the array.

    Lambda is 1 where every box holds the same, and more the larger the gaps. A self-similar set of
    dimension D in E dimensions has Lambda ~ r^(D - E); independent cells that are set with
    probability p have 1 + (1 - p) / (p r^E) on average.

    Args:
        mask_or_weights: [*batch, *spatial], any strides, tensor or NumPy array: bool counts the
            cells that are True, integers of at least 0 are weights.
        sizes: box sides r in cells, each from 1 to the smallest spatial side; by default the
            powers of two up to half of that side.
        spatial_dims: how many trailing axes are spatial, 1 to 5; by default all.
        backend: "native" or "reference"; by default that of `use_backend`, else "native".

    Returns:
        Lacunarity. Moments are exact integers, each ratio is rounded once: equal for every backend,
        device and thread count. The cost of a size does not depend on the size.

    Raises:
        InputTypeError: an argument of a wrong type or dtype, such as floats.
        InputError: a wrong value: negative weights, an array without any mass, a size larger than
            the array, or weights whose sum over all boxes is 2^63 or more.

    Source: C. Allain and M. Cloitre, Characterizing the lacunarity of random and deterministic
    fractal sets, Physical Review A 44 (1991) 3552.

    >>> import fractalkern as fk, torch
    >>> stripes = torch.tensor([1, 0, 0, 0]).repeat(8).expand(32, 32)
    >>> fk.lacunarity(stripes, sizes=[1, 4]).lacunarity.tolist()
    [4.0, 1.0]
    """
    cells, dims = checked_weights(_OP, "mask_or_weights", mask_or_weights, spatial_dims)
    side = smallest_side(_OP, "mask_or_weights", cells, dims)
    if sizes is None:
        box_sizes = powers_of_two(max(side // 2, 1))
    else:
        box_sizes = sorted(set(checked_sizes(_OP, "mask_or_weights", sizes, side)))
    _check_masses(cells, dims, box_sizes)

    moments = gliding_moments(cells, box_sizes, spatial_dims=dims, backend=backend)
    shape = moments.mass.shape
    ratios, means, variances = [], [], []
    for count, mass, (high, low) in zip(
        moments.positions.flatten().tolist(),
        moments.mass.flatten().tolist(),
        moments.square.reshape(-1, 2).tolist(),
        strict=True,
    ):
        square = (high << 62) + low
        # Python rounds the quotient of two integers of any length once.
        ratios.append(count * square / mass**2)
        means.append(mass / count)
        variances.append((count * square - mass**2) / count**2)

    def tensor(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=cells.device).reshape(shape)

    values = tensor(ratios)
    x = moments.sizes.double().log()
    return Lacunarity(
        sizes=moments.sizes,
        lacunarity=values,
        mean=tensor(means),
        variance=tensor(variances),
        positions=_positions(moments.spatial_shape, box_sizes, cells.device),
        local_slopes=local_slopes(x, values.log()) if len(x) > 1 else values[..., :0],
    )


def _positions(spatial: tuple[int, ...], sizes: list[int], device: torch.device) -> Tensor:
    counts = torch.ones(len(sizes), dtype=torch.int64, device=device)
    for side in spatial:
        counts *= torch.tensor([side - size + 1 for size in sizes], device=device)
    return counts


def _check_masses(cells: Tensor, dims: int, sizes: list[int]) -> None:
    """Weights of at least 0, some mass in each array, and sums that fit in an int64."""
    if cells.numel() == 0:
        return
    least, most = (int(bound) for bound in cells.aminmax())
    if least < 0:
        raise InputError(f"{_OP}: mask_or_weights must not be negative, got {least}")
    spatial = cells.shape[cells.ndim - dims :]
    bound = most * spatial.numel()  # at most what all cells together weigh
    largest = bound
    for size in sizes:  # a cell is in no more boxes than that
        boxes = 1
        for side in spatial:
            boxes *= min(size, side - size + 1)
        largest = max(largest, bound * boxes)
    if largest >= 2**63:
        raise InputError(
            f"{_OP}: mask_or_weights must have masses that add up to less than 2^63 over all "
            f"boxes, got a bound of {largest:.3g}: scale the weights down"
        )
    empty = (cells != 0).flatten(cells.ndim - dims).any(-1).logical_not()
    if empty.any():
        which = f" in array {empty.nonzero()[0].tolist()} of the batch" if empty.ndim else ""
        raise InputError(f"{_OP}: mask_or_weights must have some mass, got only zeros{which}")
