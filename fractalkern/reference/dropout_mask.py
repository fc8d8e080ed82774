"""The oracle of `dropout_mask`: Philox4x32-10 in int64 arithmetic, on any device and under vmap."""

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def philox_words(key: Tensor, count: int, call: int, step: int, stream: int) -> Tensor:
    """Words `[count]`, int64 from 0 to 2^32 - 1, of the key `[2]`, int64; vmap batches it.

    Word e is number e mod 4 of the block at the counter (e div 4, call, step, stream).
    """
    blocks = -(-count // 4)
    c0 = torch.arange(blocks, device=key.device)
    c1, c2, c3 = (torch.full_like(c0, word) for word in (call, step, stream))
    k0, k1 = key[0], key[1]
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # their low 64 bits, as in uint64
        c0, c2 = (p1 >> 32 & _LOW) ^ c1 ^ k0, (p0 >> 32 & _LOW) ^ c3 ^ k1
        c1, c3 = p1 & _LOW, p0 & _LOW
        k0, k1 = k0 + _KEY_STEPS[0] & _LOW, k1 + _KEY_STEPS[1] & _LOW
    return torch.stack((c0, c1, c2, c3), dim=-1).flatten()[:count]


def dropout_mask(
    key: Tensor, count: int, call: int, step: int, stream: int, threshold: int, scale: float
) -> Tensor:
    """float32 `[count]`: `scale` where the word is at least `threshold`, 0 to 2^32; else 0."""
    return scale * (philox_words(key, count, call, step, stream) >= threshold).float()
