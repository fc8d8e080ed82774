"""Generalised dimensions D_q and the spectrum f(alpha) of masks and measures."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from fractalkern.errors import InputError, InputTypeError
from fractalkern.line_fits import MIN_POINTS, fit_line, local_slopes
from fractalkern.ops._boxes import checked_sizes, powers_of_two, smallest_side
from fractalkern.ops.box_mass import box_masses, checked_weights
from fractalkern.reference.box_count import axis_origins

_OP = "generalized_dimensions"
_DEFAULT_Q = tuple(float(q) for q in range(-5, 6))
_POOR_STDERR = 0.05
# Closer to 1 than this the limit is more exact than a quotient of two small numbers.
_SMALLEST_STEP = 1e-6
_FEW = 1 << 12  # boxes of an array, or of several, whose powers of all orders are taken at once
_BLOCK = 1 << 16  # boxes whose powers are taken at once otherwise: they stay in cache


@dataclass(frozen=True, eq=False)
class GeneralizedDimensions:
    """D_q, tau(q), alpha(q) and f(alpha(q)) of measures, each with its standard error.

    The standard errors come from the residuals of the lines. Sums over one measure at several sizes
    are correlated, so they understate the error: see them as the quality of a fit. The tensors are
    float64 on the device of the input, for Q orders and S sizes.

    Attributes:
        q: the orders, as asked for.
        dimension: D_q `[*batch, Q]`; D_0 is the box-counting, D_1 the information, D_2 the
            correlation dimension.
        stderr: of D_q `[*batch, Q]`.
        tau: (q - 1) D_q `[*batch, Q]`.
        tau_stderr: of tau `[*batch, Q]`.
        alpha: d tau / d q, the singularity exponent that dominates order q, `[*batch, Q]`.
        alpha_stderr: of alpha `[*batch, Q]`.
        f_alpha: q alpha - tau, the dimension of the set of points of that exponent, `[*batch, Q]`.
        f_alpha_stderr: of f_alpha `[*batch, Q]`.
        local_slopes: the slope that D_q is of, at each size `[*batch, Q, S]`.
        sizes: box sides of the fit, in cells, ascending.
        warnings: one sentence for each order whose fit should not be trusted.
    """

    q: tuple[float, ...]
    dimension: Tensor
    stderr: Tensor
    tau: Tensor
    tau_stderr: Tensor
    alpha: Tensor
    alpha_stderr: Tensor
    f_alpha: Tensor
    f_alpha_stderr: Tensor
    local_slopes: Tensor
    sizes: tuple[int, ...]
    warnings: tuple[str, ...]

    def at(self, q: float) -> Tensor:
        """D_q `[*batch]` of one of the orders that were asked for."""
        if q not in self.q:
            raise InputError(f"at: q must be one of {', '.join(f'{x:g}' for x in self.q)}, got {q}")
        return self.dimension[..., self.q.index(q)]

    def to_json(self) -> str:
        """All fields as a JSON object."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {
            name: value.tolist() if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        return json.dumps(plain, allow_nan=False)


def generalized_dimensions(
    mask_or_measure: Any,
    q: Any = _DEFAULT_Q,
    *,
    sizes: Any = None,
    spatial_dims: int | None = None,
    offsets: int | Literal["all"] = 1,
    backend: str | None = None,
) -> GeneralizedDimensions:
    """The generalised (Rényi) dimensions D_q of measures, and their spectra f(alpha).

    With p_i(s) the share of the whole mass in box i of side s, over boxes that are not empty, and
    Z_q(s) the sum of p_i^q,

        (q - 1) D_q = tau(q) = d log Z_q / d log s,        D_1 = d (sum p_i log p_i) / d log s

    by least squares over the sizes. Alpha and f follow Chhabra and Jensen: with mu_i = p_i^q / Z_q,
    alpha = d (sum mu_i log p_i) / d log s and f = d (sum mu_i log mu_i) / d log s. These are the
    exact derivative of the fitted tau(q) and its Legendre transform, without a numerical derivative
    over the list of q, which may have a single entry. All logarithms are natural; with more than
    one origin Z_q is the mean over the grids.

    Args:
        mask_or_measure: [*batch, *spatial], any strides, tensor or NumPy array: bool masks, whose
            cells weigh the same, or integer or floating-point weights that are not negative.
        q: finite orders, a sequence or one number; by default -5, -4, ..., 5.
        sizes: sides of the boxes of the fit in cells, at least 3 different ones; by default the
            powers of two up to a quarter of the smallest side. Sets of another ratio than 2 want
            its powers.
        spatial_dims: how many trailing axes are spatial, 1 to 5; by default all.
        offsets: origins per axis and size, see `box_masses`.
        backend: "native" or "reference".

    Returns:
        GeneralizedDimensions. Deterministic.

        Orders below 0 are ruled by the emptiest boxes. `warnings` names an order where at some size
        more than half of Z_q is from boxes that hold no more than a single cell can: their mass is
        that of the grain, not of the measure. It also names those of a standard error above 0.05.

    Raises:
        InputTypeError: an argument of a wrong type or dtype.
        InputError: negative or infinite weights, an array without any mass, fewer than 3
            sizes.

    Source: H. G. E. Hentschel and I. Procaccia, The infinite number of generalized dimensions of
    fractals and strange attractors, Physica D 8 (1983) 435; A. Chhabra and R. V. Jensen, Direct
    determination of the f(alpha) singularity spectrum, Physical Review Letters 62 (1989) 1327.

    >>> import fractalkern as fk, torch
    >>> dust = torch.tensor([1, 0, 1])
    >>> for _ in range(4): dust = torch.kron(dust, torch.tensor([1, 0, 1]))
    >>> result = fk.generalized_dimensions(dust, q=[0, 1, 2], sizes=[1, 3, 9, 27])
    >>> [round(dimension, 4) for dimension in result.dimension.tolist()]
    [0.6309, 0.6309, 0.6309]
    """
    weights, dims = _checked_measure(mask_or_measure, spatial_dims)
    orders = _checked_orders(q)
    box_sizes = _fit_sizes(sizes, smallest_side(_OP, "mask_or_measure", weights, dims))
    batch, spatial = weights.shape[: weights.ndim - dims], weights.shape[weights.ndim - dims :]
    arrays = weights.reshape(-1, *spatial)

    masses = box_masses(arrays, box_sizes, spatial_dims=dims, offsets=offsets, backend=backend)
    grids = [len(axis_origins(size, masses.offsets)) ** dims for size in box_sizes]
    totals = masses.per_size[-1].sum(-1, dtype=torch.float64) / grids[-1]
    if not totals.all():
        which = f" in array {(totals == 0).nonzero()[0].item()} of the batch" if batch else ""
        raise InputError(f"{_OP}: mask_or_measure must have some mass, got only zeros{which}")
    if not totals.isfinite().all():
        raise InputError(f"{_OP}: mask_or_measure must have a finite sum: scale it down")
    grains = _grains(arrays)

    log_sums, mean_logs, grained = [], [], []
    for size, count, per_size in zip(box_sizes, grids, masses.per_size, strict=True):
        # At one cell a box everything is the grain itself, and no sign of a size too small.
        floors = grains if size > 1 else torch.zeros_like(grains)
        log_sum, mean_log, share = _sums(per_size, totals, floors, orders)
        log_sums.append(log_sum - math.log(count))
        mean_logs.append(mean_log)
        grained.append(share)
    shape = (*batch, len(orders))
    return _fitted(
        torch.tensor(orders, dtype=torch.float64, device=weights.device),
        box_sizes,
        torch.stack(log_sums, -1).reshape(*shape, len(box_sizes)),
        torch.stack(mean_logs, -1).reshape(*shape, len(box_sizes)),
        torch.stack(grained, -1).amax(-1).reshape(shape),
    )


def _grains(arrays: Tensor) -> Tensor:
    """The least weight of each array `[B]` that is not zero; one without mass has the largest."""
    cells = arrays.flatten(1)
    if cells.dtype == torch.bool:
        return cells.new_ones(len(cells), dtype=torch.int64)
    largest = torch.finfo(cells.dtype) if cells.is_floating_point() else torch.iinfo(cells.dtype)
    return cells.masked_fill(cells == 0, largest.max).amin(1)


def _sums(
    masses: Tensor, totals: Tensor, floors: Tensor, orders: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """`_partition` of the boxes of B arrays `[B, N]`, as many arrays at once as stay in cache."""
    values, counts = _distinct(masses)
    step = max(1, _FEW // values.shape[1])
    parts = []
    for i in range(0, len(masses), step):
        mass, total = values[i : i + step], totals[i : i + step, None]
        is_grain = mass <= floors[i : i + step, None]
        count = None if counts is None else counts[i : i + step]
        if values.shape[1] <= _FEW:
            if count is None:
                count = (mass > 0).double()
                mass = torch.where(mass > 0, mass, total)  # its logarithm is finite
            parts.append(_partition((mass / total).log(), count, is_grain.double(), orders))
        else:
            used = mass[0] > 0 if count is None else count[0] > 0
            every = bool(used.all())
            mass, is_grain = (x[0] if every else x[0, used] for x in (mass, is_grain))
            if count is not None:
                count = count[0] if every else count[0, used]
            parts.append(_partition_in_blocks((mass / total[0]).log(), count, is_grain, orders))
    log_sum, mean_log, share = (torch.cat(sums) for sums in zip(*parts, strict=True))
    return log_sum, mean_log, share


def _distinct(masses: Tensor) -> tuple[Tensor, Tensor | None]:
    """Masses `[B, V]`, and how often each occurs in its array, float64, maybe 0 times.

    None stands for once each if it is not zero: they are all the masses `[B, N]` themselves.
    """
    arrays, boxes = masses.shape
    if not masses.is_floating_point() and (most := int(masses.max())) <= 4 * boxes + 1024:
        first = (most + 1) * torch.arange(arrays, device=masses.device)
        counts = (masses + first[:, None]).flatten().bincount(minlength=arrays * (most + 1))
        counts = counts.reshape(arrays, -1)
        values = counts[:, 1:].any(0).nonzero()[:, 0] + 1
        if len(values) <= boxes:
            return values.expand(arrays, -1), counts[:, values].double()
    return masses, None


def _partition(
    log_p: Tensor, counts: Tensor, is_grain: Tensor, orders: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """For each order log Z_q, the sum of mu log p, and the share of Z_q in boxes of one grain.

    Each `[B, Q]`, of boxes `[B, N]`; those that count 0 times do not enter.
    """
    order = torch.tensor(orders, dtype=torch.float64, device=log_p.device)
    powers = order[:, None] * log_p[:, None]
    powers.masked_fill_((counts == 0)[:, None], -math.inf)
    shift = powers.amax(-1)  # so that the largest power is 1
    powers = powers.sub_(shift[..., None]).exp_().mul_(counts[:, None])
    total = powers.sum(-1)
    return (
        total.log() + shift,
        (powers @ log_p[..., None])[..., 0] / total,
        (powers @ is_grain[..., None])[..., 0] / total,
    )


def _partition_in_blocks(
    log_p: Tensor, counts: Tensor | None, is_grain: Tensor, orders: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """The same `[1, Q]` of many boxes of one array `[N]`."""
    order = torch.tensor(orders, dtype=torch.float64, device=log_p.device)
    low, high = log_p.aminmax()
    shift = order * torch.where(order < 0, low, high)
    blocks = []
    for begin in range(0, len(log_p), _BLOCK):
        part = log_p[begin : begin + _BLOCK]
        factors = part if counts is None else counts[begin : begin + _BLOCK] * part
        sums = [low] * (2 * len(orders))
        for index, powers in _powers(part, orders, low, high):
            sums[index] = (
                powers.sum() if counts is None else powers.dot(counts[begin : begin + _BLOCK])
            )
            sums[len(orders) + index] = powers.dot(factors)
        blocks.append(torch.stack(sums))
    total, weighted = torch.stack(blocks).sum(0).split_with_sizes([len(orders)] * 2)

    grained = torch.zeros_like(total)
    grains = log_p[is_grain]
    if len(grains) > 0:
        for index, powers in _powers(grains, orders, low, high):
            grained[index] = powers.sum() if counts is None else powers.dot(counts[is_grain])
    return (total.log() + shift)[None], (weighted / total)[None], (grained / total)[None]


def _powers(
    log_p: Tensor, orders: Sequence[float], low: Tensor, high: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """For each order its index and (p / largest p)^q, or for negative ones (smallest p / p)^|q|.

    So the largest power is 1: none overflows, and their sum is at least a count. Orders that are
    multiples of the smallest one follow from each other by products, which cost far less than
    exponentials. The tensor changes with the next order.
    """
    unit = min((abs(order) for order in orders if order != 0), default=1.0)
    multiples = [abs(order) / unit for order in orders]
    regular = all(abs(m - round(m)) < 1e-12 for m in multiples)
    regular = regular and max(multiples) <= 4 * len(orders)
    for negative in (False, True):
        chosen = [i for i, order in enumerate(orders) if (order < 0) == negative]
        if not chosen:
            continue
        logs = low - log_p if negative else log_p - high
        if not regular:
            for index in chosen:
                yield index, (abs(orders[index]) * logs).exp()
            continue
        base, powers, reached = (unit * logs).exp(), torch.ones_like(logs), 0
        for index in sorted(chosen, key=lambda i: multiples[i]):
            while reached < round(multiples[index]):
                powers *= base
                reached += 1
            yield index, powers


def _fitted(
    order: Tensor,
    sizes: Sequence[int],
    log_sums: Tensor,
    mean_logs: Tensor,
    grained: Tensor,
) -> GeneralizedDimensions:
    """The lines through log Z_q and the sum of mu log p, both [*batch, Q, S]."""
    step = order - 1
    near_one = step.abs() < _SMALLEST_STEP
    x = torch.tensor(sizes, dtype=torch.float64, device=log_sums.device).log()
    # At q = 1 the entropy stands in for log Z / (q - 1): their limit is the same.
    scaled = torch.where(
        near_one[:, None], mean_logs, log_sums / torch.where(near_one, 1.0, step)[:, None]
    )
    dimension, alpha = fit_line(x, scaled), fit_line(x, mean_logs)
    spectrum = fit_line(x, order[:, None] * mean_logs - log_sums)
    return GeneralizedDimensions(
        q=tuple(order.tolist()),
        dimension=dimension.slope,
        stderr=dimension.stderr,
        tau=dimension.slope * step,
        tau_stderr=dimension.stderr * step.abs(),
        alpha=alpha.slope,
        alpha_stderr=alpha.stderr,
        f_alpha=spectrum.slope,
        f_alpha_stderr=spectrum.stderr,
        local_slopes=local_slopes(x, scaled),
        sizes=tuple(sizes),
        warnings=tuple(_warnings(order.tolist(), grained, dimension.stderr)),
    )


def _warnings(orders: list[float], grained: Tensor, stderrs: Tensor) -> Iterator[str]:
    batched, count = grained.ndim > 1, len(orders)
    for i, (shares, errors) in enumerate(
        zip(grained.reshape(-1, count).tolist(), stderrs.reshape(-1, count).tolist(), strict=True)
    ):
        where = f"array {i}: " if batched else ""
        for q, share, stderr in zip(orders, shares, errors, strict=True):
            if q < 0 and share > 0.5:
                yield (
                    f"{where}q = {q:g}: more than half of the sum is from boxes that hold a single "
                    "grain of mass, so D_q is not that of the measure"
                )
            if stderr > _POOR_STDERR:
                yield (
                    f"{where}q = {q:g}: the sums do not lie on a line, the standard error of D_q "
                    f"is {stderr:.2g}"
                )


def _fit_sizes(sizes: Any, side: int) -> list[int]:
    if sizes is None:
        chosen = powers_of_two(max(side // 4, 1))
    else:
        chosen = sorted(set(checked_sizes(_OP, "mask_or_measure", sizes, side)))
    if len(chosen) < MIN_POINTS:
        raise InputError(
            f"{_OP}: sizes must hold at least {MIN_POINTS} different box sizes, got {len(chosen)}"
            + (f": the smallest side of {side} is too short for the default" * (sizes is None))
        )
    return chosen


def _checked_measure(mask_or_measure: Any, spatial_dims: int | None) -> tuple[Tensor, int]:
    """The weights, bool, integers or float64, and the number of spatial axes."""
    weights, dims = checked_weights(
        _OP, "mask_or_measure", mask_or_measure, spatial_dims, floats=True
    )
    smallest_side(_OP, "mask_or_measure", weights, dims)
    if weights.numel() == 0:
        raise InputError(
            f"{_OP}: mask_or_measure must hold at least one array, got shape {tuple(weights.shape)}"
        )
    if weights.is_floating_point():
        weights = weights.detach()
        if not weights.isfinite().all():
            raise InputError(f"{_OP}: mask_or_measure must be finite")
    if weights.dtype == torch.bool:
        return weights, dims
    least, most = (float(bound) for bound in weights.aminmax())
    if least < 0:
        raise InputError(f"{_OP}: mask_or_measure must not be negative, got {least:g}")
    # Sums of integers are exact while they fit.
    cells = weights.shape[weights.ndim - dims :].numel()
    return weights.double() if most * cells >= 2**62 else weights, dims


def _checked_orders(q: Any) -> list[float]:
    try:
        orders = torch.as_tensor(q, dtype=torch.float64).reshape(-1).tolist()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(f"{_OP}: q must be numbers, got {q!r} ({error})") from None
    if not orders:
        raise InputError(f"{_OP}: q must hold at least one order, got none")
    for order in orders:
        if not math.isfinite(order):
            raise InputError(f"{_OP}: q must be finite, got {order}")
    return orders
