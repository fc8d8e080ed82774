"""`train_sweep`: many tiny networks trained at once, one learning-rate pair each."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fractalkern import _native, backends
from fractalkern.errors import InputError, InputTypeError
from fractalkern.memory import require_memory
from fractalkern.ops._inputs import (
    as_integer,
    as_tensor,
    require_choice,
    require_shape,
    values_readable,
)
from fractalkern.reference import train_sweep as reference

__all__ = ["SweepResult", "train_sweep"]

OP = "train_sweep"
ACTIVATIONS = ("tanh", "relu", "identity")
PROTOCOLS = ("fixed", "published")
_STEPS = "steps must be an integer of at least 1 and below 2^63"

assert _native  # importing it registers torch.ops.fractalkern.train_sweep


@dataclass(frozen=True, eq=False)
class SweepResult:
    """What `train_sweep` measured, one entry a network.

    Attributes:
        value: `[P]`, signed convergence value (negative where converged), or the probe's output.
        converged: `[P]` bool.
        final_loss: `[P]`, the loss before the last step.
        steps_run: `[P]` int64, the first step before which the weights prove all later losses
            (see `train_sweep`), else `steps`.
        history: `[steps, P]`, the loss before each step, or None.
    """

    value: Tensor
    converged: Tensor
    final_loss: Tensor
    steps_run: Tensor
    history: Tensor | None = None


def train_sweep(
    x: Any,
    y: Any,
    w0: Any,
    w1: Any,
    lr0: Any,
    lr1: Any,
    *,
    steps: int,
    activation: str = "tanh",
    batches: Any = None,
    offset: Any = None,
    offset_every_step: bool = False,
    probe: Any = None,
    history: bool = False,
    protocol: str = "fixed",
    backend: str | None = None,
) -> SweepResult:
    r"""Trains P two-layer networks that share data and initial weights, by plain gradient descent.

    The network is :math:`f(x) = \phi(x W_0/\sqrt n)\, W_1 / h` in mean-field scaling (each layer
    divides by the square root of its fan-in, the last one twice), with
    :math:`\phi(z) = \tanh(\sqrt2 z)`, :math:`\sqrt2\,\mathrm{relu}(z)` or :math:`z`. The loss L is
    the mean of :math:`(f(x) - y)^2` over all D*k entries; a step is W -= lr * dL/dW.

    With v_t the loss before step t (1e6 if not finite) divided by v_0 and capped at 1e6, a network
    has converged if its last min(20, steps) entries average below 1 and are finite; `value` is
    -sum(v) if it has, else sum(1/v).

    Results equal running all steps: a network stops early only once its weights prove the rest, at
    `steps_run`, the first step before which either every output has a NaN output weight, or a step
    leaves all weights unchanged (both need full batches; the second no offset at every step).

    Args:
        x: `[D, n]` inputs.
        y: `[D, k]` targets.
        w0: `[n, h]` initial input-layer weights.
        w1: `[h, k]` initial output-layer weights.
        lr0: `[P]` learning rates of w0.
        lr1: `[P]` learning rates of w1.
        steps: number of steps, at least 1.
        activation: "tanh", "relu" or "identity".
        batches: int64 `[steps, b]`, the rows that each step's gradient uses; the recorded loss is
            still that of all rows. None: full batch.
        offset: `[P]`, added to every entry of w0 before the loss of step 0.
        offset_every_step: add it before the loss of every step instead, so that it accumulates;
            needs an offset.
        probe: `[1, n]` (k = 1): `value` becomes the output there at the last entry, 1e6 if it is
            not finite; `converged` still follows the loss.
        history: also return the loss before each step.
        protocol: "published" accepts a first loss that is not finite or exceeds 1e6, and judges
            convergence by the average alone, as the original does.
        backend: "native" or "reference"; None: the enclosing `use_backend`, else native.

    Floating arguments share one dtype, float64 or float32, and one device, CPU or CUDA, in any
    strides; NumPy arrays are accepted. Sums over steps are taken in float64. Results are bit-equal
    for any number of threads, chunking or order of networks on one instruction set or GPU model.
    On CUDA the values of the arguments and the first loss are checked, which waits for the device;
    while a CUDA graph is captured or a call compiled they are not, and `batches` with a row that x
    lacks makes every result NaN. Memory is O(P) without history,
    time about steps * P * (4 n h + 7 h) * D operations. Not differentiable.

    Raises:
        InputError: a shape, value or choice is wrong; a NaN in data or weights; a first loss that
            is not in (0, 1e6] (protocol "fixed"); more memory needed than there is.
        InputTypeError: a dtype is wrong.

    Source: J. Sohl-Dickstein, "The boundary of neural network trainability is fractal",
    arXiv:2402.06184.

    >>> import fractalkern as fk, torch
    >>> x = y = w0 = w1 = torch.ones(1, 1, dtype=torch.float64)
    >>> rates = torch.tensor([0.1, 50.0], dtype=torch.float64)
    >>> fk.train_sweep(x, y, w0, 3 * w1, rates, rates, steps=100).converged.tolist()
    [True, False]
    """
    floats = {"x": x, "y": y, "w0": w0, "w1": w1, "lr0": lr0, "lr1": lr1}
    floats |= {"offset": offset} if offset is not None else {}
    floats |= {"probe": probe} if probe is not None else {}
    floats = {name: as_tensor(OP, name, value).detach() for name, value in floats.items()}
    batches = None if batches is None else as_tensor(OP, "batches", batches)
    steps = as_integer(OP, steps, _STEPS)
    _check_flags(offset, offset_every_step, history)
    _check_arguments(floats, batches, steps, activation, protocol)
    name = backends.resolve(OP, backend, floats["x"].device)
    networks, itemsize = floats["lr0"].shape[0], floats["x"].element_size()
    if not torch.compiler.is_compiling():  # which cannot trace a system call
        needed = networks * (2 * itemsize + 9 + history * steps * itemsize)
        require_memory(f"{OP}: the result", needed, floats["x"].device)

    published = protocol == "published"
    operands = [floats[key] for key in ("x", "y", "w0", "w1", "lr0", "lr1")]
    offsets, readout = floats.get("offset"), floats.get("probe")
    arguments = [
        *operands,
        steps,
        activation,
        batches,
        offsets,
        offset_every_step,
        readout,
    ]
    if name == "reference":
        outputs = reference.train_sweep(*[*arguments, published])
        value, converged, final_loss, steps_run, losses = outputs
        first_loss = losses[0]
    else:
        outputs = torch.ops.fractalkern.train_sweep(*arguments, history, published, True)
        value, converged, final_loss, steps_run, first_loss, losses = outputs
    if not published and values_readable(first_loss):
        _check_first_loss(first_loss)
    return SweepResult(value, converged, final_loss, steps_run, losses if history else None)


def _check_flags(offset: Any, offset_every_step: object, history: object) -> None:
    for name, value in (("offset_every_step", offset_every_step), ("history", history)):
        if not isinstance(value, bool | np.bool_):
            raise InputTypeError(f"{OP}: {name} must be True or False, got {value!r}")
    if offset_every_step and offset is None:
        raise InputError(f"{OP}: offset_every_step needs an offset, got none")


def _check_arguments(
    floats: dict[str, Tensor], batches: Tensor | None, steps: int, activation: str, protocol: str
) -> None:
    require_choice(OP, "activation", activation, ACTIVATIONS)
    require_choice(OP, "protocol", protocol, PROTOCOLS)
    if not 1 <= steps < 2**63:
        raise InputError(f"{OP}: {_STEPS}, got {steps}")
    dtype = floats["x"].dtype
    if dtype not in (torch.float64, torch.float32):
        raise InputTypeError(f"{OP}: x must be float64 or float32, got {dtype}")
    for name, tensor in floats.items():
        if tensor.dtype != dtype:
            raise InputTypeError(
                f"{OP}: {name} must have the dtype of x, {dtype}, got {tensor.dtype}"
            )
        if tensor.device != floats["x"].device:
            raise InputError(
                f"{OP}: {name} must be on the device of x, {floats['x'].device}, "
                f"got {tensor.device}"
            )
    for name in ("x", "y", "w0", "w1"):
        if floats[name].dim() != 2 or 0 in floats[name].shape:
            raise InputError(
                f"{OP}: {name} must be a matrix with no empty axis, "
                f"got shape {list(floats[name].shape)}"
            )
    (rows, n), k, h = floats["x"].shape, floats["y"].shape[1], floats["w0"].shape[1]
    require_shape(OP, "y", floats["y"], (rows, k), "[D, k]")
    require_shape(OP, "w0", floats["w0"], (n, h), "[n, h]")
    require_shape(OP, "w1", floats["w1"], (h, k), "[h, k]")
    if floats["lr0"].dim() != 1 or floats["lr0"].shape[0] == 0:
        raise InputError(
            f"{OP}: lr0 must have shape [P] with at least one network, "
            f"got {list(floats['lr0'].shape)}"
        )
    for name in ("lr1", "offset"):
        if name in floats:
            require_shape(OP, name, floats[name], tuple(floats["lr0"].shape), "[P]")
    if "probe" in floats:
        require_shape(OP, "probe", floats["probe"], (1, n), "[1, n]")
        if k != 1:
            raise InputError(f"{OP}: probe needs a single output, k = 1, got k = {k}")
    if batches is not None:
        if batches.device != floats["x"].device:
            raise InputError(
                f"{OP}: batches must be on the device of x, {floats['x'].device}, "
                f"got {batches.device}"
            )
        _check_batches(batches, steps, rows)
    if values_readable(floats["x"]):
        for name, tensor in floats.items():
            if tensor.isnan().any():
                raise InputError(f"{OP}: {name} must hold no NaN, got one")


def _check_batches(batches: Tensor, steps: int, rows: int) -> None:
    if batches.dtype != torch.int64:
        raise InputTypeError(f"{OP}: batches must be int64, got {batches.dtype}")
    if batches.dim() != 2 or batches.shape[0] != steps or batches.shape[1] == 0:
        raise InputError(
            f"{OP}: batches must have shape [steps, b] = [{steps}, at least 1], "
            f"got {list(batches.shape)}"
        )
    if not values_readable(batches):
        return
    low, high = int(batches.min()), int(batches.max())
    if low < 0 or high >= rows:
        raise InputError(
            f"{OP}: batches must hold row numbers from 0 to {rows - 1}, got {low} to {high}"
        )


def _check_first_loss(first_loss: Tensor) -> None:
    bad = ~((first_loss > 0) & (first_loss <= reference.LOSS_CAP))
    if bad.any():
        network = int(bad.nonzero()[0, 0])
        raise InputError(
            f"{OP}: the first loss must be positive and at most 1e6, but that of network {network} "
            f'is {float(first_loss[network]):g}; protocol="published" accepts it'
        )


@torch.library.register_fake("fractalkern::train_sweep")
def _fake(
    x: Tensor,
    y: Tensor,
    w0: Tensor,
    w1: Tensor,
    lr0: Tensor,
    lr1: Tensor,
    steps: int,
    activation: str,
    batches: Tensor | None,
    offset: Tensor | None,
    offset_every_step: bool,
    probe: Tensor | None,
    history: bool,
    published: bool,
    early_exit: bool,
) -> tuple[Tensor, ...]:
    networks = lr0.shape[0]
    return (
        x.new_empty(networks),
        x.new_empty(networks, dtype=torch.bool),
        x.new_empty(networks),
        x.new_empty(networks, dtype=torch.int64),
        x.new_empty(networks),
        x.new_empty(steps if history else 0, networks),
    )


@torch.library.register_fake("fractalkern::vector_tanh")
def _fake_tanh(input: Tensor) -> Tensor:
    return torch.empty_like(input)
