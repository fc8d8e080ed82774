import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

import fractalkern as fk
from fractalkern import InputError, InputTypeError, power_iteration
from fractalkern.random import normal, uniform
from fractalkern.reference.power_iteration import STREAM
from fractalkern.regularizers import spectral_penalty

# torch itself compiles decompositions for it.
FORWARD_MODE = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
METHODS = pytest.mark.parametrize("method", ["lanczos", "power"])
BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
EPS = 2.0**-52


def gaussian(*shape, seed=0, dtype=torch.float64):
    flat = normal((math.prod(shape),), seed=seed, stream=1)
    return flat.reshape(shape).to(dtype)


def with_spectrum(values, m, n, seed=0):
    left, _ = torch.linalg.qr(gaussian(m, len(values), seed=seed))
    right, _ = torch.linalg.qr(gaussian(n, len(values), seed=seed + 1))
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.T


def true_sigma(weight):
    return torch.linalg.matrix_norm(weight.double(), 2)


def same_bits(a, b):
    fields = ("sigma", "residual", "lower", "upper", "iterations", "codes", "flat_u", "flat_v")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in fields)


# The size of the largest rounding of a pass in `dtype`, as a fraction of the Frobenius norm.
def tolerance(dtype):
    return 64 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps


@METHODS
@pytest.mark.parametrize("iters", [1, 2, 5, 9])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (13, 5), (5, 13), (64, 64), (67, 131)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_matches_reference(shape, iters, method, dtype, instruction_set):
    weight = gaussian(*shape, dtype=dtype)
    options = {"iters": iters, "method": method}
    ours = power_iteration(weight, **options)
    expected = power_iteration(weight.double(), backend="reference", **options)
    # Ten steps amplify a rounding by no more than the gaps of these spectra allow.
    scale = 1e4 * tolerance(dtype)
    assert ours.sigma.dtype == dtype
    torch.testing.assert_close(ours.sigma.double(), expected.sigma, rtol=scale, atol=0)
    torch.testing.assert_close(ours.lower.double(), expected.lower, rtol=scale, atol=0)
    torch.testing.assert_close(ours.upper.double(), expected.upper, rtol=scale, atol=0)
    sign = torch.sign(ours.v.double() @ expected.v)
    torch.testing.assert_close(sign * ours.v.double(), expected.v, rtol=0, atol=scale)
    torch.testing.assert_close(sign * ours.u.double(), expected.u, rtol=0, atol=scale)


def test_power_is_the_documented_iteration():
    weight = gaussian(40, 30)
    start = gaussian(30, seed=3)
    b = start / (start.norm() + 1e-9)
    for _ in range(10):
        v = weight @ b
        back = weight.T @ v
        b = back / (back.norm() + 1e-9)
    expected = v.norm() / b.norm()
    ours = power_iteration(weight, method="power", iters=10, start=start)
    # The documented 1e-9 moves the result by about 1e-9.
    torch.testing.assert_close(ours.sigma, expected, rtol=1e-8, atol=0)


def test_random_start_is_the_project_stream():
    for row, norms in enumerate(
        power_iteration([gaussian(4, 9), gaussian(4, 9)], iters=1, seed=5).v
    ):
        b = uniform((2, 9), seed=5, stream=STREAM)[row] - 0.5
        torch.testing.assert_close(norms, b / b.norm(), rtol=4 * EPS, atol=0)


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 40),
    n=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    decay=st.floats(0, 3),
    iters=st.integers(1, 80),
    tol=st.sampled_from([None, 1e-2, 1e-5, 1e-8]),
    method=st.sampled_from(["lanczos", "power"]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_bounds_and_status_against_svd(m, n, seed, decay, iters, tol, method, dtype):
    values = [(k + 1.0) ** -decay for k in range(min(m, n))]
    weight = with_spectrum(values, m, n, seed).to(dtype)
    norms = power_iteration(weight, iters=iters, tol=tol, method=method, seed=seed)
    sigma = float(true_sigma(weight))
    # The SVD itself is off by a few roundings times sigma.
    svd = 50 * EPS * sigma
    assert float(norms.lower) <= sigma + svd
    assert float(norms.upper) >= sigma - svd  # fails with probability 1e-6 a start
    assert float(norms.lower) <= float(norms.sigma) * (1 + 1e-6) <= float(norms.upper) * (1 + 2e-6)
    assert 1 <= int(norms.iterations) <= iters
    residual = weight.double().T @ norms.u.double() - norms.sigma.double() * norms.v.double()
    # u, v, sigma and the residual itself are rounded to the result's dtype.
    size = float(weight.double().norm() / norms.sigma) + float(norms.residual)
    rounding = 4 * torch.finfo(norms.sigma.dtype).eps * size
    assert abs(float(residual.norm() / norms.sigma) - float(norms.residual)) <= rounding
    if tol is None:
        assert norms.status == "iterated"
    else:
        assert (norms.status == "converged") == (float(norms.residual) <= tol)


@METHODS
def test_upper_fails_no_more_often_than_delta(method):
    # With delta = 1/2 the bound may fail in half the starts; Markov-free: 3 sigma of 400 trials.
    weight = with_spectrum([1.0, 0.9, 0.5, 0.1], 30, 20)
    failures = 0
    for seed in range(400):
        norms = power_iteration(weight, iters=4, method=method, seed=seed, delta=0.5)
        failures += float(norms.upper) < 1 - 1e-9
    assert failures <= 200 + 3 * 10


@METHODS
def test_given_start_has_the_deterministic_bound(method):
    weight = gaussian(20, 30)
    norms = power_iteration(weight, start=torch.ones(30), method=method)
    columns, rows = weight.abs().sum(0).max(), weight.abs().sum(1).max()
    expected = torch.minimum(weight.norm(), (columns * rows).sqrt())
    torch.testing.assert_close(norms.upper, expected, rtol=100 * EPS, atol=0)


def test_lanczos_needs_fewer_passes():
    weight = gaussian(200, 150)
    lanczos = power_iteration(weight, iters=500, tol=1e-3)
    power = power_iteration(weight, iters=500, tol=1e-3, method="power")
    assert lanczos.status == power.status == "converged"
    assert 3 * int(lanczos.iterations) < int(power.iterations)


@METHODS
def test_warm_start_stops_at_once(method):
    weight = gaussian(50, 40)
    cold = power_iteration(weight, iters=2000, tol=1e-9, method=method)
    assert cold.status == "converged"
    warm = power_iteration(weight, iters=2000, tol=1e-8, method=method, start=cold.v)
    assert warm.status == "converged" and int(warm.iterations) <= 3


def test_restarts_reach_a_tight_tolerance():
    values = [1.0, 0.9999] + [0.999 - 0.001 * k for k in range(298)]
    weight = with_spectrum(values, 320, 310)
    norms = power_iteration(weight, iters=3000, tol=1e-6)
    assert norms.status == "converged" and int(norms.iterations) > 64
    assert abs(float(norms.sigma) - 1) < 1e-8


def test_list_of_mixed_shapes_and_dtypes_equals_single_calls():
    weights = [
        gaussian(8, 3, dtype=torch.float32),
        gaussian(5, 70, seed=1),
        gaussian(31, 33, seed=2, dtype=torch.bfloat16),
        gaussian(4, 4, seed=3, dtype=torch.float16),
        torch.zeros(0, 5),
    ]
    starts = [torch.ones(w.shape[1], dtype=torch.float64) for w in weights]
    norms = power_iteration(weights, start=starts)
    assert norms.sigma.dtype == torch.float64
    for i, weight in enumerate(weights):
        single = power_iteration(weight, start=starts[i])
        assert float(norms.sigma[i].to(single.sigma.dtype)) == float(single.sigma)
        assert norms.u[i].shape == weight.shape[:1] and norms.v[i].shape == weight.shape[1:]
    assert norms.status == ["iterated"] * 4 + ["zero"]


@pytest.mark.parametrize("count", [1, 3])
def test_large_matrices_are_bit_equal_over_threads(count, instruction_set):
    weights = [gaussian(900, 1000, seed=i, dtype=torch.float32) for i in range(count)]
    weights.append(gaussian(300, 1201, dtype=torch.float64))
    before = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            results.append(power_iteration(weights, iters=4))
    finally:
        torch.set_num_threads(before)
    assert same_bits(results[0], results[1]) and same_bits(results[0], results[2])
    exact = torch.stack([true_sigma(w) for w in weights])
    assert (results[0].lower <= exact).all() and (exact <= results[0].upper).all()


def test_many_small_matrices(threads):
    stack = gaussian(300, 17, 19, dtype=torch.float32)
    norms = power_iteration(stack, iters=30)
    exact = torch.linalg.matrix_norm(stack.double(), 2)
    torch.testing.assert_close(norms.sigma.double(), exact, rtol=1e-5, atol=0)
    alone = power_iteration(list(stack), iters=30)
    assert torch.equal(alone.flat_v, norms.flat_v)


@BACKENDS
def test_strides(backend):
    base = gaussian(3, 24, 20)
    views = [
        base[0, ::2, :],
        base[0, :, ::3],
        base[1].T,
        base[2, 3:9, 5:],
        base[0, :1].expand(6, 20),
    ]
    norms = power_iteration(views, iters=25, backend=backend)
    exact = torch.stack([true_sigma(view) for view in views])
    torch.testing.assert_close(norms.sigma, exact, rtol=1e-6, atol=0)
    stacked = power_iteration(base.permute(2, 0, 1), backend=backend)
    same = power_iteration(base.permute(2, 0, 1).contiguous(), backend=backend)
    assert torch.equal(stacked.sigma, same.sigma)


@BACKENDS
def test_zero_and_empty(backend):
    weights = [torch.zeros(3, 4), torch.zeros(0, 4), torch.zeros(3, 0), -torch.zeros(1, 1)]
    norms = power_iteration(weights, tol=1e-3, backend=backend)
    for name in ("sigma", "residual", "lower", "upper", "iterations"):
        assert not getattr(norms, name).any()
    assert norms.status == ["zero"] * 4
    assert not norms.flat_u.any() and not norms.flat_v.any()
    none = power_iteration(torch.zeros(0, 3, 4), backend=backend)
    assert none.sigma.shape == (0,) and none.u.shape == (0, 3) and none.status == []


@BACKENDS
def test_rank_one(backend):
    u, v = gaussian(9, seed=1), gaussian(12, seed=2)
    norms = power_iteration(torch.outer(u, v), tol=1e-12, backend=backend)
    torch.testing.assert_close(norms.sigma, u.norm() * v.norm(), rtol=1e-14, atol=0)
    assert norms.status == "converged" and int(norms.iterations) <= 3


@BACKENDS
@METHODS
def test_repeated_top_values(backend, method):
    weight = with_spectrum([2.0, 2.0, 2.0, 1.0, 0.5], 12, 10)
    norms = power_iteration(weight, iters=80, tol=1e-10, method=method, backend=backend)
    torch.testing.assert_close(norms.sigma, torch.tensor(2.0).double(), rtol=1e-13, atol=0)
    assert norms.status == "converged"


def test_identity_converges_in_one_pass():
    norms = power_iteration(torch.eye(5), tol=1e-6)
    assert int(norms.iterations) <= 2 and float(norms.sigma) == pytest.approx(1, rel=1e-7)


@METHODS
@pytest.mark.parametrize(
    ("dtype", "factor"),
    [
        (torch.float32, 1e30),
        (torch.float32, 1e-30),
        (torch.float32, 2.0**-140),
        (torch.float64, 1e30),
        (torch.float64, 1e-30),
        (torch.float64, 2.0**1000),
        (torch.float64, 2.0**-1060),
        (torch.bfloat16, 1e30),
    ],
)
def test_scaling_up_to_the_ends_of_the_range(dtype, factor, method):
    weight = (gaussian(9, 12) * factor).to(dtype)
    norms = power_iteration(weight, iters=60, method=method)
    # In two steps, as one power of two that undoes it may be out of range.
    half = 2.0 ** (-math.frexp(factor)[1] // 2)
    exact = true_sigma(weight.double() * half * half) / half / half
    smallest = torch.finfo(norms.sigma.dtype).smallest_normal * torch.finfo(norms.sigma.dtype).eps
    torch.testing.assert_close(norms.sigma.double(), exact, rtol=1e-4, atol=smallest)
    assert norms.lower.double() <= exact * (1 + 50 * EPS)
    assert norms.upper.double() >= exact * (1 - 50 * EPS)


@METHODS
def test_a_start_that_the_matrix_annihilates(method):
    weight = torch.diag(torch.tensor([0.0, 3.0], dtype=torch.float64))
    start = torch.tensor([1.0, 0.0])
    norms = power_iteration(weight, start=start, tol=1e-3, method=method)
    assert float(norms.sigma) == 0 and math.isinf(float(norms.residual))
    assert norms.status == "not converged" and float(norms.upper) == pytest.approx(3)


@BACKENDS
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_non_finite_weights_raise(bad, dtype, backend):
    weight = gaussian(20, 30, dtype=dtype)
    weight[19, 29] = bad
    with pytest.raises(InputError, match=r"^power_iteration: weights must be finite, but matrix 1"):
        power_iteration([torch.eye(2), weight], backend=backend)


@BACKENDS
@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_useless_starts_raise(value, backend):
    with pytest.raises(InputError, match="start must be finite and not zero"):
        power_iteration(torch.eye(2), start=torch.full((2,), value), backend=backend)


@pytest.mark.parametrize(
    ("weights", "options", "error", "message"),
    [
        (torch.ones(3), {}, InputError, r"weights must be a matrix or a stack .* got shape \[3\]"),
        ([torch.ones(2, 3, 4)], {}, InputError, r"weights\[0\] must be a matrix \[m, n\]"),
        ([], {}, InputError, "at least one matrix"),
        (
            [torch.ones(2, 2).int()],
            {},
            InputTypeError,
            r"weights\[0\] must be float16.*got torch.int32",
        ),
        ("text", {}, InputTypeError, "weights must be a tensor or an array, got str"),
        ([torch.ones(1, 1), torch.ones(1, 1, device="meta")], {}, InputError, "on one device"),
        (torch.ones(2, 2, device="meta"), {}, InputError, "weights must have values, but are on"),
        (torch.eye(2), {"iters": 0}, InputError, "iters must be from 1"),
        (torch.eye(2), {"iters": 1.5}, InputTypeError, "iters must be an integer, got 1.5"),
        (torch.eye(2), {"tol": 0}, InputError, "tol must be positive and finite, got 0"),
        (torch.eye(2), {"tol": -1e-3}, InputError, "tol must be positive and finite, got -0.001"),
        (torch.eye(2), {"tol": math.nan}, InputError, "tol must be positive and finite, got nan"),
        (torch.eye(2), {"seed": -1}, InputError, "seed must be from 0"),
        (torch.eye(2), {"seed": True}, InputTypeError, "seed must be an integer, got True"),
        (torch.eye(2), {"seed": np.float64(1)}, InputTypeError, "seed must be an integer, got"),
        (torch.eye(2), {"delta": 0}, InputError, "delta must be at least 1e-8"),
        (torch.eye(2), {"delta": 1}, InputError, "delta must be at least 1e-8"),
        (torch.eye(2), {"method": "qr"}, InputError, "method must be one of lanczos, power"),
        (
            torch.eye(2),
            {"start": torch.ones(3)},
            InputError,
            r"start must have shape \[2\], got \[3\]",
        ),
        ([torch.eye(2)], {"start": torch.ones(2)}, InputError, "start must be a list of 1 vectors"),
        ([torch.eye(2)], {"start": [torch.ones(2).int()]}, InputTypeError, "floating point"),
        (
            torch.eye(2),
            {"start": torch.ones(2, device="meta")},
            InputError,
            "start must be on the device of the weights, cpu, got meta",
        ),
        (
            [torch.eye(2)] * 2,
            {"start": [torch.ones(2), torch.ones(2, device="meta")]},
            InputError,
            r"start\[1\] must be on the device of the weights",
        ),
        (torch.eye(2), {"backend": "magic"}, InputError, "backend must be one of"),
    ],
)
def test_bad_input(weights, options, error, message):
    with pytest.raises(error, match=message):
        power_iteration(weights, **options)


@BACKENDS
def test_gradcheck(backend):
    weights = [with_spectrum([3.0, 1.0, 0.5], m, n).requires_grad_() for m, n in ((4, 3), (3, 5))]
    strided = torch.zeros(4, 10, dtype=torch.float64)
    strided[:, ::2] = with_spectrum([2.0, 0.3], 4, 5)

    def sigmas(*tensors):
        views = [*tensors[:2], tensors[2][:, ::2], tensors[2][:, ::2].T]
        norms = power_iteration(views, iters=200, tol=1e-12, backend=backend)
        assert norms.status == ["converged"] * 4
        return norms.sigma

    assert torch.autograd.gradcheck(sigmas, (*weights, strided.requires_grad_()))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_gradient_is_the_outer_product(dtype):
    weight = gaussian(2, 130, 700, dtype=dtype).requires_grad_()
    norms = power_iteration(weight)
    (2 * norms.sigma).sum().backward()
    expected = 2 * norms.u[..., :, None].double() * norms.v[..., None, :].double()
    assert weight.grad.dtype == dtype
    torch.testing.assert_close(weight.grad, expected.to(dtype), rtol=1e-6, atol=1e-7)
    assert not norms.u.requires_grad and not norms.upper.requires_grad


@BACKENDS
def test_double_backward_is_a_clear_error(backend):
    weight = gaussian(4, 3).requires_grad_()
    sigma = power_iteration(weight, backend=backend).sigma
    (grad,) = torch.autograd.grad(sigma, weight, create_graph=True)
    with pytest.raises((NotImplementedError, RuntimeError), match="once"):
        grad.sum().backward()


def test_no_gradient_of_a_zero_matrix():
    weight = torch.zeros(3, 2, requires_grad=True)
    power_iteration(weight).sigma.backward()
    assert not weight.grad.any()


def test_opcheck():
    weights = [gaussian(4, 3).requires_grad_(), gaussian(2, 5, 6, dtype=torch.float32)]
    for start in (None, torch.ones(15, dtype=torch.float64)):
        arguments = (weights, start, 5, -1.0, True, 1e-6, 0)
        torch.library.opcheck(torch.ops.fractalkern.power_iteration.default, arguments)
        torch.library.opcheck(
            torch.ops.fractalkern.power_iteration_eager.default,
            ([w.detach() for w in weights], *arguments[1:]),
        )
    backward = (torch.ones(3), torch.ones(29), weights)
    torch.library.opcheck(
        torch.ops.fractalkern.power_iteration_backward.default,
        backward,
        test_utils=("test_schema", "test_faketensor"),
    )


def test_fullgraph_compile():
    def penalty(a, b):
        norms = power_iteration([a, b], iters=6)
        return (norms.sigma - 1).square().sum(), norms.u[0]

    arguments = [gaussian(6, 5, seed=i).requires_grad_() for i in range(2)]
    compiled = torch.compile(penalty, fullgraph=True, backend="aot_eager")
    value, u = compiled(*arguments)
    expected, expected_u = penalty(*arguments)
    assert torch.equal(value, expected) and torch.equal(u, expected_u)
    ours = torch.autograd.grad(value, arguments)
    assert all(map(torch.equal, ours, torch.autograd.grad(expected, arguments)))


def test_vmap_over_a_stack_of_models():
    first, second = gaussian(3, 6, 5), gaussian(4, 3, 7, seed=2)
    start = torch.ones(5)

    def model(a, b):
        norms = power_iteration([a, b], start=[start, torch.ones(7)])
        return norms.sigma, norms.v[1], norms.iterations

    sigma, v, iterations = torch.vmap(model, in_dims=(0, 1))(first, second)
    assert sigma.shape == (3, 2) and v.shape == (3, 7) and iterations.shape == (3, 2)
    for r in range(3):
        expected = model(first[r], second[:, r])
        torch.testing.assert_close(sigma[r], expected[0], rtol=1e-14, atol=0)
        torch.testing.assert_close(v[r], expected[1], rtol=0, atol=1e-12)
    shared = torch.vmap(lambda a: power_iteration([a, second[:, 0]]).sigma)(first)
    assert torch.equal(shared[:, 1] > 0, torch.ones(3, dtype=torch.bool))


def test_vmap_over_no_models():
    first, second = torch.zeros(0, 6, 5), gaussian(3, 7)

    def model(a):
        norms = power_iteration([a, second])
        return norms.sigma, norms.v[1]

    sigma, v = torch.vmap(model)(first)
    assert sigma.shape == (0, 2) and v.shape == (0, 7)


def test_vmap_of_a_tensor_and_its_gradient():
    stack = (
        with_spectrum([3.0, 1.0], 5, 4).repeat(3, 1, 1) * torch.tensor([1.0, 2, 3])[:, None, None]
    )

    def sigma(weight):
        return power_iteration(weight, iters=30).sigma

    torch.testing.assert_close(torch.vmap(sigma)(stack), 3 * torch.tensor([1.0, 2, 3]).double())


def test_func_grad_is_the_outer_product():
    weights = [with_spectrum([3.0, 1.0], 5, 4), with_spectrum([2.0, 0.5], 3, 6)]

    def penalty(a, b):
        return (power_iteration([a, b], iters=40).sigma - 1).square().sum()

    ours = torch.func.grad(penalty, argnums=(0, 1))(*weights)
    leaves = [w.clone().requires_grad_() for w in weights]
    expected = torch.autograd.grad(penalty(*leaves), leaves)
    exact = torch.autograd.grad(
        sum((torch.linalg.matrix_norm(w, 2) - 1) ** 2 for w in leaves), leaves
    )
    for a, b, c in zip(ours, expected, exact, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("order", ["vmap of grad", "grad of vmap"])
def test_func_grad_with_vmap(order):
    first = torch.stack([with_spectrum([3.0 + k, 1.0], 5, 4) for k in range(3)])
    second = torch.stack([with_spectrum([2.0 + k, 0.5], 2, 6) for k in range(3)], 1)
    shared = with_spectrum([2.0, 1.0], 3, 3)

    def penalty(a, b):
        return (power_iteration([a, b, shared], iters=40).sigma - 1).square().sum()

    if order == "vmap of grad":
        gradient = torch.func.vmap(torch.func.grad(penalty, argnums=(0, 1)), in_dims=(0, 1))
        ours = gradient(first, second)
        ours = (ours[0], ours[1].movedim(0, 1))
    else:
        ours = torch.func.grad(
            lambda a, b: torch.func.vmap(penalty, in_dims=(0, 1))(a, b).sum(), argnums=(0, 1)
        )(first, second)
    for r in range(3):
        single = torch.func.grad(penalty, argnums=(0, 1))(first[r], second[:, r])
        torch.testing.assert_close(ours[0][r], single[0], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(ours[1][:, r], single[1], rtol=1e-10, atol=1e-12)


def test_func_grad_of_a_functional_call():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    x = torch.ones(4, 3)

    def loss(parameters):
        weights = [w for w in parameters.values() if w.dim() == 2]
        output = torch.func.functional_call(model, parameters, (x,))
        return output.square().mean() + power_iteration(weights, iters=30).sigma.sum()

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    ours = torch.func.grad(loss)(parameters)
    expected = torch.autograd.grad(loss(dict(model.named_parameters())), list(model.parameters()))
    for name, gradient in zip(ours, expected, strict=True):
        torch.testing.assert_close(ours[name], gradient)
    norms = power_iteration([parameters["0.weight"]], iters=30)
    data_term = torch.func.grad(
        lambda p: torch.func.functional_call(model, p, (x,)).square().mean()
    )(parameters)
    torch.testing.assert_close(
        ours["0.weight"] - data_term["0.weight"], torch.outer(norms.u[0], norms.v[0])
    )


def test_func_grad_twice_is_a_clear_error():
    def sigma(weight):
        return power_iteration(weight).sigma

    def slope(weight):
        return torch.func.grad(sigma)(weight).sum()

    with pytest.raises(NotImplementedError, match="once only"):
        torch.func.grad(slope)(gaussian(4, 3))


@FORWARD_MODE
def test_forward_mode_is_a_clear_error():
    """A sigma without its tangent would pass for a constant."""
    weight = gaussian(4, 3)

    def penalty(weight):
        return spectral_penalty([weight], torch.ones(1), torch.tensor(1.0))[0]

    for function in (lambda w: power_iteration(w).sigma, penalty):
        with pytest.raises(NotImplementedError, match="has no forward-mode derivative"):
            torch.func.jvp(function, (weight,), (weight,))
        with forward_ad.dual_level():
            assert torch.equal(function(weight), function(weight))
            with pytest.raises(NotImplementedError, match="has no forward-mode derivative"):
                function(forward_ad.make_dual(weight, weight))


def test_results_depend_on_the_seed_alone():
    weights = [gaussian(30, 20), gaussian(10, 40)]
    assert same_bits(power_iteration(weights, seed=7), power_iteration(weights, seed=7))
    assert not torch.equal(
        power_iteration(weights, seed=7).sigma, power_iteration(weights, seed=8).sigma
    )


@pytest.mark.parametrize("number", [np.int64, np.uint8, torch.tensor])
def test_integers_may_be_of_any_library(number):
    weight = gaussian(30, 20)
    ours = power_iteration(weight, iters=number(3), seed=number(7))
    assert same_bits(ours, power_iteration(weight, iters=3, seed=7))


def test_use_backend_reaches_the_reference():
    with fk.use_backend("reference"):
        norms = power_iteration(gaussian(6, 5), iters=30)
    assert float(norms.sigma) == pytest.approx(float(true_sigma(gaussian(6, 5))), rel=1e-9)


@pytest.mark.parametrize("shape", [(96, 384), (384, 96), (128, 128)], ids=str)
def test_more_passes_never_lose_the_vector(shape):
    """On wide matrices the start has a part in the null space, and its eigenvalue 0 comes early."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(24, *shape, generator=generator) / shape[1] ** 0.5
    exact = torch.linalg.matrix_norm(weights.double(), 2)
    for passes in range(12, 48):
        error = 1 - fk.power_iteration(weights, iters=passes).sigma.double() / exact
        assert error.max() < 0.03, passes


@pytest.mark.parametrize("factor", [1.0, 2.0**60, 2.0**-60])
def test_many_passes_over_a_low_rank_beyond_the_range_of_float(factor):
    """Squares that leave float's range are summed in double, from a start rounded to float."""
    decades = torch.linspace(9, -9, 60, dtype=torch.float64)[:, None]
    weight = (gaussian(60, 50, seed=1) * 10**decades / 1e9 * factor).float()
    exact = float(true_sigma(weight))
    for seed in range(3):
        for passes in (10, 30, 45, 70):
            norms = power_iteration(weight, iters=passes, seed=seed)
            assert float(norms.sigma) == pytest.approx(exact, rel=1e-3), (seed, passes)
