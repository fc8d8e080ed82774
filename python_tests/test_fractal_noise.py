import math
import threading

import numpy as np
import pytest
import torch

import fractalkern as fk
from fractalkern import BackendError, InputError, InputTypeError
from fractalkern.ops import _inverse_fft
from fractalkern.random import philox4x32
from fractalkern.reference import fractal_noise as reference

# torch itself compiles decompositions for it.
FORWARD_MODE = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
SPECTRA = pytest.mark.parametrize("spectrum", ["gaussian", "phase", "genesis"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
# Lengths 1, 2, primes, odd and even in every place, unequal; rows that end inside a vector; more
# modes than one block (2^14) and than one chunk (512).
SIZES = [
    *[(2,), (3,), (16,), (17,), (1031,), (70000,)],
    *[(1, 8), (8, 1), (2, 2), (7, 8), (8, 7), (64, 96), (131, 300)],
    *[(4, 6, 8), (5, 3, 7), (1, 1, 9), (30, 40, 50), (4, 6, 2, 8), (3, 5, 4, 7)],
    *[(2, 3, 4, 5, 6), (4, 2, 2, 3, 5), (3, 1, 2, 2, 1)],
]


def half_spectrum(size, beta=1.0, *, seed=0, items=1, float64=True, step=None, **options):
    """The coefficients that the op gives, `[items, *half]`."""
    step = step or [1 / n for n in size]
    choices = {"spectrum": "gaussian", "normalize": "none", "k_min": 0.0, "k_max": math.inf}
    choices |= {"common_noise": False} | options
    order = ("common_noise", "k_min", "k_max", "spectrum", "normalize")
    betas = torch.full((items,), beta, dtype=torch.float64)
    arguments = [choices[name] for name in order]
    modes = torch.ops.fractalkern.fractal_noise_spectrum(
        betas, list(size), step, seed, *arguments, float64
    )
    return torch.view_as_complex(modes)


# --- random bits ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_published_vectors(counter, key, words):
    assert philox4x32(counter, key).tolist() == words
    as_int32 = [
        torch.from_numpy(np.array(x, dtype=np.uint32).view(np.int32)) for x in (counter, key)
    ]
    native = torch.ops.fractalkern.philox_words(*as_int32)
    assert native.numpy().view(np.uint32).tolist() == words


@SPECTRA
@DTYPES
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_modes_are_the_reference_modes(size, dtype, spectrum):
    """Every word of every mode: a wrong bit in one of the upper 20 would show here."""
    seed, items = 2**64 - 3, 2
    modes = half_spectrum(
        size, 0.0, seed=-3, items=items, spectrum=spectrum, float64=dtype == torch.float64
    )
    expected = torch.stack([reference.unit_modes(size, seed, b, spectrum) for b in range(items)])
    expected.view(items, -1)[:, 0] = 0
    # Modulus and angle each come from a few roundings; the modulus is at most sqrt(2 ln 2^53) = 9.
    tolerance = 16 * torch.finfo(dtype).eps
    assert (modes.to(torch.complex128) - expected).abs().max() <= tolerance * 9


@SPECTRA
@DTYPES
@pytest.mark.parametrize("normalize", ["sample", "ensemble", None], ids=str)
@pytest.mark.parametrize("beta", [-1.5, 0.0, 2.0])
@pytest.mark.parametrize("size", SIZES[:-1:2], ids=str)
def test_matches_reference(size, beta, normalize, dtype, spectrum):
    options = {"seed": 11, "spectrum": spectrum, "normalize": normalize, "dtype": dtype}
    options |= {"batch": 2, "spacing": [0.5 + axis for axis in range(len(size))]}
    field = fk.fractal_noise(size, beta, **options)
    options["dtype"] = torch.float64
    expected = fk.fractal_noise(size, beta, backend="reference", **options)
    assert field.dtype == dtype
    # Amplitudes lose |beta| / 2 * log2(|k| / |k0|) roundings in the exponent, the transform one a
    # stage: 16 + 2 log2(N), on the scale of the sum of the modes.
    scale = expected.std(correction=0) + expected.abs().max()
    stages = math.log2(math.prod(size))
    tolerance = torch.finfo(dtype).eps * (16 + (2 + abs(beta)) * stages)
    assert (field.double() - expected).abs().max() <= tolerance * scale


@SPECTRA
@DTYPES
@pytest.mark.parametrize("size", [(70000,), (300, 131), (30, 40, 50), (6, 5, 4, 7, 9)], ids=str)
def test_bits_are_equal_on_threads_and_instruction_sets(size, dtype, spectrum):
    options = {"seed": 5, "items": 2, "spectrum": spectrum, "normalize": "sample"}
    options |= {"float64": dtype == torch.float64}
    before, sets = torch.get_num_threads(), fk.build_info()
    results = []
    try:
        for name in sets["supported_instruction_sets"]:
            fk.set_instruction_set(name)
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                results.append(torch.view_as_real(half_spectrum(size, 1.3, **options)))
    finally:
        torch.set_num_threads(before)
        fk.set_instruction_set(sets["instruction_set"])
    for other in results[1:]:
        assert torch.equal(other, results[0])


def test_float32_uses_the_same_uniforms_rounded():
    single, double = (half_spectrum((64, 64), 0.0, float64=f) for f in (False, True))
    assert (single - double.to(torch.complex64)).abs().max() < 2e-6


@pytest.mark.parametrize("size", [(16,), (15,), (6, 8), (5, 7), (4, 3, 6), (2, 4, 2, 4)], ids=str)
def test_twice_the_resolution_keeps_the_modes(size):
    """Same box, half the spacing: modes with |n_i| < N_i/2 are bit-equal."""
    fine_size = [2 * n for n in size]
    step = [1 / n for n in size]
    coarse, fine = (half_spectrum(n, 1.7, step=step)[0] for n in (size, fine_size))
    numbers = [torch.from_numpy(n) for n in reference.wave_numbers(size)]
    inner = torch.stack(
        torch.broadcast_tensors(
            *(2 * n.abs() < length for n, length in zip(numbers, size, strict=True))
        )
    ).all(0)
    where = inner.nonzero(as_tuple=True)
    in_fine = []
    for axis, (index, n) in enumerate(zip(where, numbers, strict=True)):
        signed = n.flatten()[index]
        in_fine.append(signed % fine_size[axis] if axis < len(size) - 1 else signed)
    assert torch.equal(torch.view_as_real(fine[tuple(in_fine)]), torch.view_as_real(coarse[where]))


def test_batch_items_draw_under_their_own_keys():
    fields = fk.fractal_noise((32, 32), 1.0, seed=9, batch=(2, 3), dtype=torch.float64)
    assert fields.shape == (2, 3, 32, 32)
    single = fk.fractal_noise((32, 32), 1.0, seed=9, dtype=torch.float64)
    torch.testing.assert_close(fields[0, 0], single)  # torch's FFT of a batch rounds otherwise
    modes = half_spectrum((32, 32), seed=9, items=6)
    assert torch.equal(modes[:1], half_spectrum((32, 32), seed=9))
    flat = fields.flatten(0, 1).flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(6)
    # A pink field of 1024 points: about 1 / sum(p^2) effective modes, p the shares of the power.
    assert correlation.abs().max() < 0.5
    white = fk.fractal_noise((64, 64), 0.0, seed=9, batch=6, dtype=torch.float64).flatten(1)
    assert (
        torch.corrcoef(white) - torch.eye(6)
    ).abs().max() < 4 / 64  # 4 standard errors, 15 pairs


def test_common_noise_and_betas_share_one_underlying_field():
    betas = torch.tensor([0.0, 1.0, 2.0])
    fields = fk.fractal_noise(
        (48, 36), betas, seed=3, batch=3, common_noise=True, normalize=None, dtype=torch.float64
    )
    k = reference.square_frequency((48, 36), (1 / 48, 1 / 36)).sqrt()
    white, *others = torch.fft.rfftn(fields, dim=(1, 2), norm="forward")
    for beta, modes in zip(betas[1:], others, strict=True):
        shaped = white * torch.where(k > 0, k, 1.0) ** (-float(beta) / 2)
        assert torch.allclose(modes, shaped, rtol=1e-10, atol=1e-10)
    alone = fk.fractal_noise((48, 36), 1.0, seed=3, normalize=None, dtype=torch.float64)
    torch.testing.assert_close(fields[1], alone)


def test_seed_touches_no_global_state_and_generators_govern():
    torch.manual_seed(1)
    first = fk.fractal_noise(64, 1.0)
    second = fk.fractal_noise(64, 1.0)
    torch.manual_seed(1)
    assert torch.equal(fk.fractal_noise(64, 1.0), first)
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    fk.fractal_noise(64, 1.0, seed=0)
    own = torch.Generator().manual_seed(4)
    drawn = fk.fractal_noise(64, 1.0, generator=own)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(fk.fractal_noise(64, 1.0, generator=torch.Generator().manual_seed(4)), drawn)


@pytest.mark.parametrize("number", [np.int64, np.uint64, torch.tensor])
def test_a_seed_may_be_an_integer_of_any_library(number):
    field = fk.fractal_noise(16, 1.0, seed=number(7))
    assert torch.equal(field, fk.fractal_noise(16, 1.0, seed=7))


# --- the traps of others --------------------------------------------------------------------------


@SPECTRA
@pytest.mark.parametrize("size", SIZES[:-1], ids=str)
def test_self_conjugate_planes_are_exactly_hermitian(size, spectrum):
    modes = half_spectrum(size, 1.0, spectrum=spectrum)[0]
    planes = {0} | ({size[-1] // 2} if size[-1] % 2 == 0 else set())
    for plane in planes:
        values = modes[..., plane]
        mirrored = values
        for axis in range(values.dim()):
            mirrored = mirrored.flip(axis).roll(1, axis)
        assert torch.equal(torch.view_as_real(values), torch.view_as_real(mirrored.conj().clone()))


@pytest.mark.parametrize("beta", [-2.0, 0.0, 1.0, 4.0, 40.0, -40.0])
@DTYPES
def test_mean_is_zero_and_variance_one_for_every_beta(beta, dtype):
    for size in [(512,), (31, 64), (8, 9, 10), (1, 2)]:
        field = fk.fractal_noise(size, beta, seed=1, batch=2, dtype=dtype).double().flatten(1)
        assert field.mean(1).abs().max() < 1e-6
        assert (field.var(1, correction=0) - 1).abs().max() < 1e-5


@DTYPES
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("beta", [1e5, 1e300, 10**400, -1e5, -1e300, [1.7e308]], ids=str)
def test_huge_orders_leave_the_strongest_modes(beta, backend, dtype):
    """Products with beta that overflow, and infinity times the 0 of modes out of the field."""
    options = {"seed": 1, "batch": (1,), "dtype": dtype, "backend": backend}
    field = fk.fractal_noise((16, 8), beta, **options)[0].double()
    power = torch.fft.rfftn(field, norm="forward").abs().square()
    rising = not isinstance(beta, list) and beta < 0
    kept = power[8, 4] if rising else power[1, 0] + power[-1, 0]  # |k| of 1/16 is the least
    assert float(kept) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("normalize", ["sample", "ensemble"])
@pytest.mark.parametrize(("beta", "got"), [(1e4, "10000"), ([1.0, -1e6], "-1e\\+06")], ids=str)
def test_a_beta_that_leaves_a_band_empty_is_no_empty_band(beta, got, normalize):
    """Amplitudes are taken relative to the band's limit, which may be no mode's |k|."""
    options = {"seed": 1, "k_min": 0.1, "k_max": 0.32, "normalize": normalize}
    batch = (2,) if isinstance(beta, list) else ()
    with pytest.raises(InputError, match=rf"beta must leave a mode .* above 0, got {got}: beside"):
        fk.fractal_noise(64, beta, batch=batch, **options)
    with pytest.raises(InputError, match="k_min and k_max must leave a mode of the grid"):
        fk.fractal_noise(64, beta, batch=batch, **(options | {"k_max": 0.1001}))
    fk.fractal_noise(64, beta, batch=batch, backend="reference", **options)


def test_ensemble_variance_is_one_in_expectation():
    for spectrum in ("gaussian", "phase", "genesis"):
        fields = fk.fractal_noise(
            (16, 16), 1.0, seed=2, batch=4000, normalize="ensemble", spectrum=spectrum
        )
        variance = fields.var((1, 2), correction=0)
        error = float(variance.std()) / math.sqrt(4000)
        assert abs(float(variance.mean()) - 1) < 3 * error + 1e-6


def test_without_normalization_a_white_mode_has_power_one():
    field = fk.fractal_noise((64, 64), 0.0, seed=2, normalize=None, spectrum="phase")
    assert float(field.double().square().mean()) == pytest.approx(64 * 64 - 1, rel=1e-6)


@pytest.mark.parametrize("size", [(8,), (6, 8), (4, 6, 4)], ids=str)
def test_self_conjugate_modes_have_the_variance_of_the_others(size):
    """Nyquist and its like are real: without care they get half or twice the power."""
    samples = 4000
    power = half_spectrum(size, 0.0, items=samples).abs().square()
    power = power.flatten(1)[:, 1:]
    real = half_spectrum(size, 0.0)[0].imag.flatten()[1:] == 0
    assert real.any()
    # E|z|^2 = 1; its variance is 1 for complex normals and 2 for real ones.
    for group, variance in ((power[:, real], 2), (power[:, ~real], 1)):
        if group.numel():
            assert abs(float(group.mean()) - 1) < 3 * math.sqrt(variance / group.numel())


def test_unequal_axes_keep_the_spectrum_isotropic():
    """|k| is a frequency, not an index: along each axis of a 64 x 256 grid the slope is beta."""
    size, beta, samples = (64, 256), 2.0, 400
    fields = fk.fractal_noise(size, beta, seed=6, batch=samples, normalize=None)
    power = torch.fft.fftn(fields.double(), dim=(1, 2), norm="forward").abs().square().mean(0)
    for n0, n1 in ((1, 4), (4, 16), (16, 64)):  # the same |k| on the two axes
        # The mean of 400 exponentials has the relative standard error 1/20.
        ratio = float(power[n0, 0] / power[0, n1])
        assert abs(math.log(ratio)) < 3 * math.sqrt(2) / 20


def test_spacing_makes_frequencies_physical():
    stretched = fk.fractal_noise((16, 16), 2.0, seed=0, spacing=4.0, normalize=None)
    plain = fk.fractal_noise((16, 16), 2.0, seed=0, normalize=None)
    torch.testing.assert_close(stretched, 4 * plain)  # |k| / 4 to the power of -beta / 2


@pytest.mark.parametrize(
    "spacing", [2.0, np.float32(2), torch.tensor(2.0), [2, 2.0], np.full(2, 2)]
)
def test_spacing_may_be_any_kind_of_number(spacing):
    field = fk.fractal_noise((8, 6), 1.0, seed=0, spacing=spacing)
    assert torch.equal(field, fk.fractal_noise((8, 6), 1.0, seed=0, spacing=(2.0, 2.0)))


def test_band_limits_are_inclusive_frequencies():
    for n, k_min, k_max in ((64, 0.125, 0.25), (10, 0.1, 0.3), (30, 1 / 30, 7 / 30)):
        field = fk.fractal_noise(n, 1.0, seed=0, k_min=k_min, k_max=k_max, dtype=torch.float64)
        power = torch.fft.rfft(field, norm="forward").abs()
        kept = (power > 1e-12).nonzero().flatten()
        assert int(kept[0]) == round(k_min * n)
        assert int(kept[-1]) == round(k_max * n)
        assert float(field.var(correction=0)) == pytest.approx(1)


# --- statistics -----------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [-1.0, 0.0, 0.5, 1.0, 2.0, 3.0])
def test_fitted_slope_at_512_squared(beta):
    fields = fk.fractal_noise((512, 512), beta, seed=12, batch=32)
    power = torch.fft.rfft2(fields, norm="forward").abs().square().double()
    k = reference.square_frequency((512, 512), (1 / 512, 1 / 512)).sqrt()
    inside = (k > 0.01) & (k < 0.5)
    log_k = k[inside].log()
    # ln of an exponential variable has a constant mean, so the slope is unbiased.
    log_power = power[:, inside].log().mean(0)
    centred = log_k - log_k.mean()
    slope = float((centred * log_power).sum() / centred.square().sum())
    # Its standard deviation is pi / sqrt(6); the standard error of the slope follows.
    error = math.pi / math.sqrt(6) / math.sqrt(32 * float(centred.square().sum()))
    assert 3 * error < 0.02
    assert abs(slope + beta) < 3 * error


def test_samples_are_gaussian_and_alike():
    fields = fk.fractal_noise((16, 16), 1.0, seed=8, batch=20000, normalize="ensemble").double()
    flat = fields.flatten(1)
    count = flat.shape[0]
    for sample in (flat[:, 0], flat[:, 100], flat[:, -1]):
        assert abs(float(sample.mean())) < 3 / math.sqrt(count)
        assert abs(float(sample.var()) - 1) < 3 * math.sqrt(2 / count)
        standard = (sample - sample.mean()) / sample.std()
        assert abs(float(standard.pow(3).mean())) < 3 * math.sqrt(6 / count)
        assert abs(float(standard.pow(4).mean()) - 3) < 3 * math.sqrt(24 / count)


def test_genesis_has_the_law_of_the_trainer():
    """The trainer's full complex spectrum with independent phases, real part of its inverse FFT."""
    size, samples = (6, 8), 4000
    random = np.random.default_rng(0)
    phases = random.uniform(0, 2 * np.pi, (samples, *size))
    k = np.sqrt(sum(np.meshgrid(*(np.fft.fftfreq(n) ** 2 for n in size), indexing="ij")))
    k[0, 0] = 1
    noise = k**-0.5 * np.exp(1j * phases)
    noise[:, 0, 0] = 0
    theirs = torch.fft.rfftn(
        torch.from_numpy(np.fft.ifftn(noise, axes=(1, 2), norm="forward").real),
        dim=(1, 2),
        norm="forward",
    )
    ours = half_spectrum(size, 1.0, items=samples, spectrum="genesis")
    for moment in (2, 4):
        a, b = (modes.abs().pow(moment).flatten(1)[:, 1:] for modes in (ours, theirs))
        error = torch.sqrt((a.var(0) + b.var(0)) / samples)
        score = ((a.mean(0) - b.mean(0)) / error).abs()
        assert score.mean() < 1.2  # 0.8 for normal scores
        assert score.max() < 4  # 59 of them


def test_phase_has_exact_amplitudes():
    modes = half_spectrum((8, 9), 1.5, spectrum="phase")[0]
    k = reference.square_frequency((8, 9), (1 / 8, 1 / 9)).sqrt()
    expected = torch.where(k > 0, k, 1.0) ** -0.75
    expected[0, 0] = 0
    torch.testing.assert_close(modes.abs(), expected)


# --- interface ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_float32_rounded(dtype):
    field = fk.fractal_noise((32, 33), 1.0, seed=1, dtype=dtype)
    single = fk.fractal_noise((32, 33), 1.0, seed=1, dtype=torch.float32)
    assert torch.equal(field, single.to(dtype))


def test_default_dtype_is_torchs():
    assert fk.fractal_noise(8, 1.0, seed=0).dtype == torch.get_default_dtype()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_out_is_written_and_returned(dtype):
    expected = fk.fractal_noise((6, 8), 1.0, seed=1, batch=2, dtype=dtype)
    for out in (torch.empty(2, 6, 8, dtype=dtype), torch.empty(2, 8, 6, dtype=dtype).mT):
        assert fk.fractal_noise((6, 8), 1.0, seed=1, batch=2, out=out) is out
        assert torch.equal(out, expected)


@pytest.mark.parametrize("size", [(2100, 4100), (1500, 2, 3001)], ids=str)
@pytest.mark.parametrize("given", [False, True], ids=["new", "out"])
def test_a_large_transform_in_blocks_is_the_transform(size, given):
    """Last blocks of rows and columns that are smaller than the others; odd and even lengths."""
    half = half_spectrum(size, 1.0, float64=False, normalize="sample")[0]
    assert _inverse_fft.is_worthwhile(half, size)
    whole = torch.fft.irfftn(half, s=size, norm="forward")
    out = torch.full(size, math.nan) if given else None
    field = _inverse_fft.irfftn(half, size, out)
    assert out is None or field is out
    # The roundings of about log2(n) = 23 stages, on the scale of the largest value.
    assert (field - whole).abs().max() <= 23 * torch.finfo(torch.float32).eps * whole.abs().max()


@pytest.mark.parametrize(("rows", "length", "kept"), [(5, 7, 7), (3, 700, 513), (900, 130, 129)])
@DTYPES
def test_copy_with_moments(rows, length, kept, dtype):
    field = torch.randn(rows, length, dtype=dtype, generator=torch.Generator().manual_seed(0))
    out = torch.full((rows, kept), math.nan, dtype=dtype)
    moments = torch.ops.fractalkern.copy_with_moments(field, out)
    assert torch.equal(out, field[:, :kept])
    exact = out.double()
    expected = torch.stack([exact.sum(), exact.square().sum()])
    # Runs of 256 elements are summed in `dtype`, up to 16 a lane.
    scale = torch.stack([exact.abs().sum(), exact.square().sum()])
    assert ((moments - expected).abs() <= 16 * torch.finfo(dtype).eps * scale).all()
    torch.library.opcheck(torch.ops.fractalkern.copy_with_moments.default, (field, out))
    with pytest.raises(RuntimeError, match="field and out must be rows"):
        torch.ops.fractalkern.copy_with_moments(field, out.new_empty(rows, length + 1))


def test_empty_batch():
    assert fk.fractal_noise((4, 4), 1.0, seed=0, batch=(0, 2)).shape == (0, 2, 4, 4)
    with fk.use_backend("reference"):
        assert fk.fractal_noise((4, 4), 1.0, seed=0, batch=0).shape == (0, 4, 4)


def test_a_single_cell_is_zero_without_normalization():
    assert fk.fractal_noise((1, 1), 1.0, seed=0, normalize=None).tolist() == [[0.0]]


@SPECTRA
@pytest.mark.parametrize("normalize", ["sample", "ensemble", None], ids=str)
def test_gradcheck_in_beta(normalize, spectrum):
    beta = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)

    def draw(beta):
        return fk.fractal_noise(
            (4, 5), beta, seed=1, batch=2, spectrum=spectrum, normalize=normalize, dtype=beta.dtype
        )

    assert torch.autograd.gradcheck(draw, beta)
    weights = torch.rand(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (ours,) = torch.autograd.grad((draw(beta) * weights).sum(), beta)
    with fk.use_backend("reference"):
        (expected,) = torch.autograd.grad((draw(beta) * weights).sum(), beta)
    torch.testing.assert_close(ours, expected)


@FORWARD_MODE
@pytest.mark.parametrize("normalize", ["sample", "ensemble", None], ids=str)
def test_torch_func_and_forward_mode_see_the_derivative(normalize):
    beta = torch.tensor([0.5, -1.0], dtype=torch.float64)
    tangent = torch.tensor([0.3, 0.7], dtype=torch.float64)

    def draw(beta):
        options = {"batch": 2, "normalize": normalize, "dtype": beta.dtype}
        return fk.fractal_noise((4, 5), beta, seed=1, **options)

    jacobian = torch.autograd.functional.jacobian(draw, beta)
    torch.testing.assert_close(torch.func.jacrev(draw)(beta), jacobian)
    _, forward = torch.func.jvp(draw, (beta,), (tangent,))
    torch.testing.assert_close(forward, jacobian @ tangent)
    assert torch.autograd.gradcheck(draw, beta.clone().requires_grad_(), check_forward_ad=True)


@FORWARD_MODE
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize(
    ("shape", "axis", "options"),
    [
        ((3,), 0, {}),
        ((3,), 0, {"batch": 2}),
        ((3, 2), 0, {"batch": 2}),
        ((2, 3), 1, {"batch": 2}),
        ((2, 2, 3), 1, {"batch": (2, 3), "common_noise": True}),
        ((3,), 0, {"normalize": None, "spectrum": "phase"}),
        ((3,), 0, {"normalize": "ensemble", "k_min": 0.2}),
    ],
    ids=str,
)
def test_vmap_over_beta_is_the_calls_one_by_one(shape, axis, options, backend):
    beta = torch.linspace(-1, 2, math.prod(shape), dtype=torch.float64).view(shape)

    def draw(beta):
        return fk.fractal_noise((6, 5), beta, seed=3, dtype=beta.dtype, backend=backend, **options)

    for function in (draw, torch.func.jacrev(draw), torch.func.jacfwd(draw)):
        expected = torch.stack([function(one) for one in beta.unbind(axis)])
        torch.testing.assert_close(torch.func.vmap(function, axis)(beta), expected)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_gradients_go_through_vmap_and_vmap_through_vmap(backend):
    beta = torch.linspace(-1, 2, 6, dtype=torch.float64).view(2, 3)

    def draw(beta):
        return fk.fractal_noise(9, beta, seed=3, dtype=torch.float64, backend=backend)

    def first(beta):
        return draw(beta)[0].exp()

    twice = torch.func.vmap(torch.func.vmap(draw))
    expected = torch.stack([torch.stack([draw(one) for one in row]) for row in beta])
    torch.testing.assert_close(twice(beta), expected)
    slopes = torch.stack([torch.stack([torch.func.grad(first)(b) for b in row]) for row in beta])
    within = torch.func.grad(lambda b: twice(b)[..., 0].exp().sum())(beta)
    torch.testing.assert_close(within, slopes)
    leaf = beta.clone().requires_grad_()
    (ordinary,) = torch.autograd.grad(twice(leaf)[..., 0].exp().sum(), leaf)
    torch.testing.assert_close(ordinary, slopes)


def test_vmap_over_no_betas():
    for batch in ((), 2):
        draw = torch.func.vmap(lambda b, batch=batch: fk.fractal_noise(4, b, batch=batch, seed=0))
        assert draw(torch.ones(0)).shape == (0, *([batch] if batch else []), 4)


@pytest.mark.parametrize(
    ("options", "beta", "named"),
    [
        ({}, math.nan, "beta must be finite, got nan"),
        ({"k_min": 9.0}, 1.0, "k_min and k_max must leave a mode"),
        ({"k_min": 0.1}, 1e4, "beta must leave a mode of the grid between k_min and k_max"),
        ({"normalize": None}, 1e4, "beta must give amplitudes that fit torch.float32, got .* inf"),
        ({"out": torch.empty(16)}, 1.0, "out must be None where torch.func transforms beta"),
        ({"seed": None}, 1.0, "seed must be given under vmap with randomness='different'"),
    ],
)
def test_bad_input_under_vmap_is_one_sentence(options, beta, named):
    def draw(beta):
        return fk.fractal_noise(16, beta, **{"seed": 0, **options})

    with pytest.raises(InputError, match=f"^fractal_noise: {named}"):
        torch.func.vmap(draw, randomness="different")(torch.tensor([1.0, beta]))


@FORWARD_MODE
def test_forward_mode_of_a_field_large_enough_for_blocks():
    """Blocks are transformed in place, behind the back of a derivative."""
    beta, size = torch.ones((), dtype=torch.float64), (2100, 4100)
    _, tangent = torch.func.jvp(lambda b: fk.fractal_noise(size, b, seed=1), (beta,), (beta,))
    step = 1e-3
    ends = [fk.fractal_noise(size, 1 + sign * step, seed=1) for sign in (-1, 1)]
    difference = (ends[1] - ends[0]) / (2 * step)
    # The third derivative is of order ln(N)^3 / 48 = 10, and float32 loses eps / step.
    torch.testing.assert_close(tangent, difference, rtol=0, atol=10 * step**2 + 3e-3)


def test_a_seed_is_drawn_also_under_another_default_device():
    torch.manual_seed(3)
    expected = fk.fractal_noise(8, 1.0)
    torch.manual_seed(3)
    with torch.device("meta"):
        assert torch.equal(fk.fractal_noise(8, 1.0), expected)


@DTYPES
@pytest.mark.parametrize("normalize", ["sample", "ensemble", "none"])
def test_opcheck(normalize, dtype):
    beta = torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)
    arguments = (beta, [4, 6], [0.25, 1 / 6], 3, False, 0.0, math.inf, "gaussian", normalize)
    torch.library.opcheck(
        torch.ops.fractalkern.fractal_noise_spectrum.default, (*arguments, dtype == torch.float64)
    )


def test_compiles_without_a_graph_break():
    def draw(beta):
        return 2 * fk.fractal_noise((8, 9), beta, seed=1, batch=2)

    beta = torch.tensor([0.5, 1.5], dtype=torch.float64)
    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(beta), draw(beta))


def test_compiles_with_numbers_that_vary():
    def draw(number):
        return fk.fractal_noise((4, 5), 1.0, k_min=number, spacing=number, seed=1)

    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")
    for number in (0.1, 0.2, 0.15):
        assert torch.equal(compiled(number), draw(number))


def test_threads_of_the_caller_do_not_disturb_each_other():
    expected = [fk.fractal_noise((64, 64), 1.0, seed=s) for s in range(4)]
    results = [None] * 4

    def draw(seed):
        results[seed] = fk.fractal_noise((64, 64), 1.0, seed=seed)

    workers = [threading.Thread(target=draw, args=(s,)) for s in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "named"),
    [
        (((), 1.0), {}, InputError, "size must have 1 to 5 axes, got 0"),
        (((2,) * 6, 1.0), {}, InputError, "size must have 1 to 5 axes, got 6"),
        (((4, 0), 1.0), {}, InputError, "size must be from 1 to 2^31 - 1, got 0"),
        ((-3, 1.0), {}, InputError, "size must be from 1 to 2^31 - 1, got -3"),
        ((2.5, 1.0), {}, InputTypeError, "size must be integers, got float"),
        (((4, 2.0), 1.0), {}, InputTypeError, "size must be integers, got 2.0"),
        (((1, 1), 1.0), {}, InputError, "size must have an axis longer than 1"),
        ((4, math.nan), {}, InputError, "beta must be finite, got nan"),
        ((4, math.inf), {}, InputError, "beta must be finite, got inf"),
        ((4, "pink"), {}, InputTypeError, "beta must be a number or a tensor of them, got str"),
        ((4, 1j), {}, InputTypeError, "beta must be"),
        ((4, [1.0, 2.0]), {}, InputError, "beta must have shape [*batch] = [], got [2]"),
        ((4, [1.0, 2.0]), {"batch": 3}, InputError, "beta must have shape [*batch] = [3], got [2]"),
        ((4, 1.0), {"batch": -1}, InputError, "batch must be from 0 to 2^31 - 1, got -1"),
        ((4, 1.0), {"seed": -1}, InputError, "seed must be an integer from 0 to 2^64 - 1, got -1"),
        ((4, 1.0), {"seed": 2**64}, InputError, "seed must be an integer from 0 to 2^64 - 1"),
        ((4, 1.0), {"seed": 1.5}, InputTypeError, "seed must be an integer, got 1.5"),
        (
            (4, 1.0),
            {"generator": torch.Generator()},
            InputError,
            "seed and generator must not both",
        ),
        ((4, 1.0), {"spectrum": "pink"}, InputError, "spectrum must be one of gaussian, phase"),
        ((4, 1.0), {"normalize": "max"}, InputError, "normalize must be one of sample, ensemble"),
        ((4, 1.0), {"k_min": -1.0}, InputError, "k_min must be at least 0, got -1.0"),
        ((4, 1.0), {"k_max": math.nan}, InputError, "k_max must be at least 0, got nan"),
        ((4, 1.0), {"k_min": 0.3, "k_max": 0.2}, InputError, "k_min must be finite and at most"),
        ((4, 1.0), {"k_min": 9.0}, InputError, "k_min and k_max must leave a mode"),
        ((4, 1.0), {"generator": 5}, InputTypeError, "generator must be a torch.Generator, got 5"),
        ((4, 1.0), {"spacing": 0.0}, InputError, "spacing must be positive and finite, got 0.0"),
        ((4, 1.0), {"spacing": [1.0, 2.0]}, InputError, "spacing must be one number or one for"),
        (
            (4, 1.0),
            {"spacing": 1e160},
            InputError,
            "spacing must be from 1e-140 to 1e+140, got 1e+160",
        ),
        ((4, 1.0), {"spacing": 1e-160}, InputError, "spacing must be from 1e-140 to 1e+140"),
        ((4, 1.0), {"spacing": "wide"}, InputTypeError, "spacing must be a number, got 'w'"),
        ((4, 1.0), {"spacing": [None]}, InputTypeError, "spacing must be a number, got None"),
        ((4, 1.0), {"k_min": "low"}, InputTypeError, "k_min must be a number, got 'low'"),
        ((4, 1.0), {"k_max": [0.2]}, InputTypeError, "k_max must be a number, got [0.2]"),
        ((4, True), {}, InputTypeError, "beta must be real numbers, got bool"),
        ((4, torch.ones(()).to_sparse()), {}, InputTypeError, "beta must be a dense tensor"),
        ((4, torch.ones((), device="meta")), {}, InputTypeError, "beta must be a dense tensor"),
        (
            (4, torch.ones(()).to(torch.float8_e5m2)),
            {},
            InputTypeError,
            "beta must be real numbers",
        ),
        ((4, 1.0), {"generator": 5, "seed": None}, InputTypeError, "generator must be a torch.Gen"),
        ((4, 1.0), {"out": np.zeros(4)}, InputTypeError, "out must be a torch.Tensor, got ndarray"),
        (
            (4, 1.0),
            {"out": torch.zeros(4, requires_grad=True)},
            InputError,
            "out must not require a gradient",
        ),
        ((4, 1.0), {"dtype": torch.int32}, InputTypeError, "dtype must be one of float16"),
        ((4, 1.0), {"dtype": torch.complex64}, InputTypeError, "dtype must be one of float16"),
        ((4, 1.0), {"out": torch.empty(5)}, InputError, "out must have shape [*batch, *size]"),
        (
            (4, 1.0),
            {"out": torch.empty(4), "dtype": torch.float64},
            InputTypeError,
            "out must have the dtype torch.float64, got torch.float32",
        ),
        ((4, 1.0), {"device": "cuda:99"}, BackendError, "device must be "),
        ((4, 1.0), {"device": "gpu"}, InputError, "device must be a device that torch knows"),
        ((4, 1.0), {"device": "meta"}, BackendError, "native backend cannot run on meta"),
        ((4, 1.0), {"backend": "fast"}, InputError, "backend must be one of native"),
        (((2**20, 2**20, 2**10), 1.0), {}, InputError, "the field must fit in memory"),
        ((4096, 80.0), {"normalize": None}, InputError, "beta must give amplitudes that fit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_one_sentence(arguments, options, error, named):
    if isinstance(options.get("generator"), torch.Generator):
        options = options | {"seed": 1}
    with pytest.raises(error, match=r"^[^\n]+$") as caught:
        fk.fractal_noise(*arguments, **({"seed": 0} | options))
    assert named in str(caught.value)


def test_an_absent_device_is_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match=r"^fractal_noise: device must be cpu here, got cuda"):
        fk.fractal_noise(4, 1.0, seed=0, device="cuda")


def test_the_raw_op_guards_its_memory():
    op = torch.ops.fractalkern.fractal_noise_spectrum
    beta = torch.ones(1, dtype=torch.float64)
    tail = (0, False, 0.0, math.inf, "gaussian", "none", True)
    for size, step in (([], []), ([0], [1.0]), ([4], []), ([4], [math.nan]), ([2**40], [1.0])):
        with pytest.raises(RuntimeError, match="fractal_noise: "):
            op(beta, size, step, *tail)
    with pytest.raises(RuntimeError, match="beta must be float64"):
        op(beta.float(), [4], [0.25], *tail)
    with pytest.raises(RuntimeError, match="spectrum must be"):
        op(beta, [4], [0.25], 0, False, 0.0, math.inf, "pink", "none", True)
