"""Random numbers that depend on where an element is, not on who draws it or in which order.

Element (..., i, j, k) of stream `s` under seed `q` is a pure function of one Philox4x32-10 block:

    counter = (k, j, i, s)                    the last coordinate first, missing ones 0
    key     = (q mod 2^32, q div 2^32)
    words   = philox4x32(counter, key)        four 32-bit words w0, w1, w2, w3

    uniform pair   u = ((w0 * 2^32 + w1) >> 11) / 2^53,  v = the same of (w2, w3)    in [0, 1)
    normal         sqrt(-2 log(u + 2^-53)) cos(2 pi v)
    integer        (w0 * high) div 2^32                                             in [0, high)

So a larger array continues a smaller one, every array wants a stream of its own, and arrays have at
most three axes of at most 2^32 elements. The words and integers are equal on every machine; normals
agree to the last bits of the machine's log and cos.

Source: J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC11, 2011.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fractalkern.errors import InputError

_ROUNDS = 10
_MULTIPLIERS_INT = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS_INT = (0x9E3779B9, 0xBB67AE85)
_MULTIPLIERS = tuple(np.uint64(number) for number in _MULTIPLIERS_INT)
_KEY_STEPS = tuple(np.uint64(number) for number in _KEY_STEPS_INT)
_LOW = 0xFFFFFFFF
_HALF = np.uint64(32)

Words = npt.NDArray[np.uint64]


def philox4x32(counter: npt.ArrayLike, key: Sequence[int | Words]) -> Words:
    """Philox4x32-10: four 32-bit words for each counter `[..., 4]` under `key` (two words).

    The words of the key are integers, or arrays `[...]` with one for each counter.

    >>> from fractalkern.random import philox4x32
    >>> [hex(word) for word in philox4x32([0, 0, 0, 0], (0, 0))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, dtype=np.uint64), -1, 0)
    k0, k1 = (np.asarray(word, dtype=np.uint64) for word in key)
    for _ in range(_ROUNDS):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0 = (p1 >> _HALF) ^ c1 ^ k0
        c1 = p1 & np.uint64(_LOW)
        c2 = (p0 >> _HALF) ^ c3 ^ k1
        c3 = p0 & np.uint64(_LOW)
        k0, k1 = (k0 + _KEY_STEPS[0]) & np.uint64(_LOW), (k1 + _KEY_STEPS[1]) & np.uint64(_LOW)
    return np.stack((c0, c1, c2, c3), axis=-1)


def _words(shape: Sequence[int], seed: int, stream: int) -> Words:
    if not 0 <= seed < 2**64:
        raise InputError(f"seed must be an integer from 0 to 2^64 - 1, got {seed}")
    if len(shape) > 3:
        raise InputError(f"shape must have at most 3 axes, got {len(shape)}")
    counter = np.zeros((*shape, 4), dtype=np.uint64)
    for word, axis in enumerate(reversed(range(len(shape)))):
        column = np.arange(shape[axis], dtype=np.uint64)
        counter[..., word] = column.reshape(-1, *(1,) * (len(shape) - 1 - axis))
    counter[..., 3] = stream
    return philox4x32(counter, (seed & _LOW, seed >> 32))


def _uniform(high: Words, low: Words) -> npt.NDArray[np.float64]:
    bits: Words = ((high << _HALF) | low) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def uniform(shape: Sequence[int], *, seed: int, stream: int) -> Tensor:
    """Uniform float64 numbers in [0, 1), on the CPU.

    >>> from fractalkern.random import uniform
    >>> uniform((2, 3), seed=0, stream=0).shape
    torch.Size([2, 3])
    """
    words = _words(shape, seed, stream)
    return torch.as_tensor(_uniform(words[..., 0], words[..., 1]))


def normal(shape: Sequence[int], *, seed: int, stream: int) -> Tensor:
    """Standard normal float64 numbers by the cosine half of Box-Muller, on the CPU.

    >>> from fractalkern.random import normal
    >>> bool((normal((4, 4), seed=1, stream=0)[:2] == normal((2, 4), seed=1, stream=0)).all())
    True
    """
    words = _words(shape, seed, stream)
    radius = np.sqrt(-2.0 * np.log(_uniform(words[..., 0], words[..., 1]) + 2.0**-53))
    angle = 2.0 * np.pi * _uniform(words[..., 2], words[..., 3])
    return torch.as_tensor(radius * np.cos(angle))


def integers(shape: Sequence[int], high: int, *, seed: int, stream: int) -> Tensor:
    """Int64 numbers in [0, high), each with probability 1/high to within 2^-32; high <= 2^32.

    >>> from fractalkern.random import integers
    >>> integers((3,), 1, seed=0, stream=0).tolist()
    [0, 0, 0]
    """
    if not 1 <= high <= 2**32:
        raise InputError(f"high must be from 1 to 2^32, got {high}")
    words = _words(shape, seed, stream)
    return torch.as_tensor(((words[..., 0] * np.uint64(high)) >> _HALF).astype(np.int64))


def derived_seed(seed: int, index: int, *, stream: int) -> int:
    """A seed of its own for part number `index` of what `seed` is the key of: words w0, w1.

    >>> from fractalkern.random import derived_seed
    >>> derived_seed(0, 1, stream=7) == derived_seed(0, 2, stream=7)
    False
    """
    c0, c1, c2, c3 = index & _LOW, 0, 0, stream & _LOW
    k0, k1 = seed & _LOW, seed >> 32
    # `philox4x32` on plain integers: arrays of one element are slow.
    for _ in range(_ROUNDS):
        p0, p1 = _MULTIPLIERS_INT[0] * c0, _MULTIPLIERS_INT[1] * c2
        c0, c1 = (p1 >> 32) ^ c1 ^ k0, p1 & _LOW
        c2, c3 = (p0 >> 32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = k0 + _KEY_STEPS_INT[0] & _LOW, k1 + _KEY_STEPS_INT[1] & _LOW
    return c0 << 32 | c1
