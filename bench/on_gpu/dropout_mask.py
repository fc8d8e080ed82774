"""`dropout_mask` on the GPU beside its reference and torch's own random mask.

Rates are of the bytes that cannot be spared: one write of the mask.
"""

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import fractalkern  # noqa: F401  # registers the op
from bench.on_gpu.ceilings import COPY
from bench.on_gpu.rows import Case, Contender
from fractalkern.reference import dropout_mask as reference

_SHARE = 0.1
_PLACE = (3, 100, 0x64726F70, round(_SHARE * 2**32), 1 / (1 - _SHARE))
_TARGET = "75 % of copy bandwidth"


def _case(runs: int, elements: int, target: str) -> Case:
    work = 4.0 * runs * elements
    keys = torch.arange(2 * runs).view(runs, 2)

    def on_device(call: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        return functools.partial(call, keys.cuda())

    def ours(keys: Tensor) -> Tensor:
        return torch.ops.fractalkern.dropout_mask(keys, elements, *_PLACE)

    oracle = torch.vmap(lambda key: reference.dropout_mask(key, elements, *_PLACE))
    expected = functools.cache(lambda: ours(keys))

    def check(answer: Tensor) -> None:
        assert torch.equal(answer.cpu(), expected()), "the masks are wrong"

    def bernoulli() -> Callable[[], Tensor]:
        return functools.partial(torch.empty(runs, elements, device="cuda").bernoulli_, 1 - _SHARE)

    return Case(
        "dropout_mask",
        f"{runs} runs, {elements:,} elements",
        "B/s",
        [
            Contender("dropout_mask, CUDA", lambda: on_device(ours), work, check, "ours"),
            Contender("bernoulli_ of PyTorch", bernoulli, work, role="floor"),
            Contender("reference", lambda: on_device(oracle), work, check),
            Contender(
                "reference, compiled",
                lambda: on_device(torch.compile(oracle, dynamic=False)),
                work,
                check,
            ),
        ],
        target,
        ceiling=COPY,
    )


def cases() -> Iterator[Case]:
    """Attention of a batch of 16 models, rows of an odd length, activations of small ones."""
    yield _case(16, 4 * 12 * 512 * 512, _TARGET)
    yield _case(16, 4 * 12 * 512 * 512 + 1, "")
    yield _case(50, 1500 * 64, "one launch")
