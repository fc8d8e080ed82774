"""The oracle of `adam_step`, on any device."""

from torch import Tensor


def adam_step(
    parameters: Tensor, gradients: Tensor, first: Tensor, second: Tensor, numbers: Tensor
) -> None:
    """A step of Adam of R runs, in place.

        g = factor g + decay p
        m = m + fresh_first (g - m)
        v = kept_second v + fresh_second g^2
        p = shrink p - size m / (root sqrt(v) + epsilon)

    Args:
        parameters: p, floating point `[R, P]`, changed.
        gradients: g, likewise, as the following.
        first: m, changed.
        second: v, changed.
        numbers: float64 `[R, 9]`, a run's factor, decay, shrink, fresh_first, kept_second,
            fresh_second, size, root and epsilon.
    """
    columns = numbers.to(parameters.dtype).T[..., None]
    factor, decay, shrink, fresh_first, kept_second, fresh_second, size, root, epsilon = columns
    g = gradients * factor + parameters * decay
    first.add_((g - first) * fresh_first)
    second.mul_(kept_second).add_(g * fresh_second * g)
    parameters.mul_(shrink).sub_(size * first / (second.sqrt() * root + epsilon))
