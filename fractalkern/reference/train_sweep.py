"""Reference for `train_sweep`: every network stepped by autograd, the whole loss history kept."""

import math

import torch
from torch import Tensor

LOSS_CAP = 1e6
TAIL = 20


def forward(x: Tensor, w0: Tensor, w1: Tensor, activation: str) -> Tensor:
    """Mean-field network `[..., D, k]`: each layer divides by sqrt(fan-in), the last one twice."""
    gain = 1 if activation == "identity" else math.sqrt(2)  # sqrt(2) relu(z) = relu(sqrt(2) z)
    z = x @ (w0 * (gain / math.sqrt(x.shape[-1])))
    if activation == "tanh":
        z = torch.tanh(z)
    elif activation == "relu":
        z = torch.relu(z)
    return z @ (w1 / w1.shape[-2])


def network_losses(x: Tensor, y: Tensor, w0: Tensor, w1: Tensor, activation: str) -> Tensor:
    """Mean of (prediction - y)^2 over all rows and outputs, `[P]`."""
    return (forward(x, w0, w1, activation) - y).square().mean(dim=(-2, -1))


def convergence_value(history: Tensor, published: bool) -> tuple[Tensor, Tensor]:
    """The signed measure of a loss history `[steps, P]`: (value float64 `[P]`, converged `[P]`).

    Losses that are not finite count as 1e6; then v = min(loss / first loss, 1e6). A run converged
    if its last 20 entries average below 1 (and, unless `published`, are all finite). The value is
    -sum(v) if it did, else sum(1 / v).
    """
    history = history.double()
    finite = history.isfinite()
    v = torch.where(finite, history, LOSS_CAP)
    v = torch.clamp(v / v[0], max=LOSS_CAP)
    converged = v[-TAIL:].mean(dim=0) < 1
    if not published:
        converged &= finite[-TAIL:].all(dim=0)
    return torch.where(converged, -v.sum(dim=0), (1 / v).sum(dim=0)), converged


def train_sweep(
    x: Tensor,  # [D, n]
    y: Tensor,  # [D, k]
    w0: Tensor,  # [n, h]
    w1: Tensor,  # [h, k]
    lr0: Tensor,  # [P]
    lr1: Tensor,  # [P]
    steps: int,
    activation: str,
    batches: Tensor | None,  # [steps, b]
    offset: Tensor | None,  # [P]
    offset_every_step: bool,
    probe: Tensor | None,  # [1, n]
    published: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(value `[P]`, converged `[P]`, final_loss `[P]`, steps_run `[P]`, history `[steps, P]`)."""
    networks = lr0.shape[0]
    w0, w1 = w0.expand(networks, -1, -1), w1.expand(networks, -1, -1)
    steps_run = torch.full((networks,), steps, device=x.device)
    losses = []
    for t in range(steps):
        if offset is not None and (t == 0 or offset_every_step):
            w0 = w0 + offset[:, None, None]
        if probe is not None:
            readout = forward(probe, w0, w1, activation)[:, 0, 0]

        rows = slice(None) if batches is None else batches[t]
        with torch.enable_grad():
            a0, a1 = w0.detach().requires_grad_(), w1.detach().requires_grad_()
            loss = network_losses(x[rows], y[rows], a0, a1, activation)
            gradient0, gradient1 = torch.autograd.grad(loss.sum(), (a0, a1))
        if batches is not None:  # the recorded loss is that of all rows
            loss = network_losses(x, y, w0, w1, activation)
        losses.append(loss.detach())
        new0 = w0 - lr0[:, None, None] * gradient0
        new1 = w1 - lr1[:, None, None] * gradient1

        if batches is None:  # both prove every later loss from the weights before step t
            settled = w1.isnan().any(dim=1).all(dim=1)
            if not offset_every_step:
                settled |= (new0 == w0).all(dim=(1, 2)) & (new1 == w1).all(dim=(1, 2))
            steps_run = torch.where(settled & (steps_run == steps), t, steps_run)
        w0, w1 = new0, new1

    history = torch.stack(losses)
    value, converged = convergence_value(history, published)
    if probe is not None:
        value = torch.where(readout.isfinite(), readout, LOSS_CAP)
    return value.to(x.dtype), converged, history[-1], steps_run, history
