"""The training of `train_sweep` as JAX programs: the original notebook's, and better ones.

Each builder returns a call that trains every network for `steps` steps and returns the losses
before the last step, `[P]`.
"""

from collections.abc import Callable

import numpy as np

from bench.problem import Problem


def _trainer(problem: Problem):
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", problem.dtype == "float64")
    x, y, w0, w1, lr0, lr1 = (jnp.asarray(array) for array in problem.arrays())
    n, h = w0.shape

    def loss(weights):
        hidden = jnp.tanh(jnp.sqrt(2.0) * (x @ weights[0]) / jnp.sqrt(n))
        return jnp.mean((hidden @ weights[1] / h - y) ** 2)

    def step(weights, lr0, lr1):
        value, (g0, g1) = jax.value_and_grad(loss)(weights)
        return (weights[0] - lr0 * g0, weights[1] - lr1 * g1), value

    return jax, step, (w0, w1), lr0, lr1


def stepwise(problem: Problem) -> Callable[[], np.ndarray]:
    """The notebook's way: a Python loop over steps of one jitted, vmapped step."""
    jax, step, weights, lr0, lr1 = _trainer(problem)
    first = jax.jit(jax.vmap(step, in_axes=(None, 0, 0)))
    later = jax.jit(jax.vmap(step))

    def train():
        current, value = first(weights, lr0, lr1)
        history = [value]
        for _ in range(problem.steps - 1):
            current, value = later(current, lr0, lr1)
            history.append(value)
        jax.block_until_ready(current)
        return np.asarray(history[-1])

    return train


def scanned(problem: Problem) -> Callable[[], np.ndarray]:
    """All steps in one program: lax.scan over steps of the vmapped step."""
    jax, step, weights, lr0, lr1 = _trainer(problem)

    @jax.jit
    def train(lr0, lr1):
        networks = jax.tree.map(lambda w: jax.numpy.broadcast_to(w, (len(lr0), *w.shape)), weights)
        step_all = jax.vmap(step)
        _, history = jax.lax.scan(
            lambda current, _: step_all(current, lr0, lr1), networks, length=problem.steps
        )
        return history

    return lambda: np.asarray(train(lr0, lr1)[-1])


def parallel(problem: Problem, devices: int, batch: int) -> Callable[[], np.ndarray]:
    """The best arrangement known: pmap over the cores, lax.map in cache-sized batches, scan inside.

    Needs XLA_FLAGS=--xla_force_host_platform_device_count=<devices> before JAX is imported.
    """
    jax, step, weights, lr0, lr1 = _trainer(problem)

    def train_one(rates):
        _, history = jax.lax.scan(
            lambda current, _: step(current, *rates), weights, length=problem.steps
        )
        return history

    train = jax.pmap(lambda *rates: jax.lax.map(train_one, rates, batch_size=batch))
    rates = [rate.reshape(devices, -1) for rate in (lr0, lr1)]
    return lambda: np.asarray(train(*rates)).reshape(-1, problem.steps)[:, -1]
