"""What runs train on: shared or own tensors, whole or in minibatches of their own order."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fractalkern.ensemble.randomness import ORDER_STREAM, key_words
from fractalkern.errors import InputError, InputTypeError
from fractalkern.ops._inputs import as_tensor, require_whole
from fractalkern.random import philox4x32


class Data:
    """Tensors, of which a step passes examples to the loss.

    Args:
        tensors: tensors or NumPy arrays `[N, ...]`, shared by all runs; with `of_run`,
            `[S, N, ...]`: S data sets.
        of_run: `[R]`, the data set of each run; "own" for data set r of run r.
        batch_size: examples a step; None for all N, in order. An epoch goes without the last N mod
            batch_size.
        shuffle: whether a run's epoch is a permutation of its own, by its seed; if not, every epoch
            of every run has the examples in order.

    Raises:
        InputError: tensors that do not go together, a data set that is not there, a wrong batch.
        InputTypeError: what is no tensor, no integer, or no bool.

    >>> import torch
    >>> from fractalkern.ensemble import Data
    >>> Data(torch.zeros(10, 2), torch.zeros(10), batch_size=3).steps_per_epoch
    3
    """

    def __init__(
        self,
        *tensors: Any,
        of_run: Any = None,
        batch_size: int | None = None,
        shuffle: bool = True,
    ) -> None:
        self.tensors = tensors = tuple(as_tensor("Data", "tensors", t) for t in tensors)
        self.axis = 0 if of_run is None else 1
        sizes = {tensor.shape[: self.axis + 1] for tensor in tensors}
        if len(sizes) != 1 or any(tensor.dim() <= self.axis for tensor in tensors):
            raise InputError(
                f"Data: tensors must have the same first {'axis' if self.axis == 0 else 'two axes'}"
                f", got shapes {[list(tensor.shape) for tensor in tensors]}"
            )
        self.examples = int(tensors[0].shape[self.axis])
        if self.examples == 0:
            raise InputError("Data: tensors must hold at least one example, got none")
        if of_run is None:
            self.of_run = None
        else:
            sets = tensors[0].shape[0]
            of_run = range(sets) if isinstance(of_run, str) and of_run == "own" else of_run
            self.of_run = as_tensor("Data", "of_run", of_run).to(torch.int64)
            if self.of_run.dim() != 1 or not ((self.of_run >= 0) & (self.of_run < sets)).all():
                raise InputError(
                    f"Data: of_run must be a list of numbers from 0 to {sets - 1}, got {of_run!r}"
                )
        if batch_size is not None:
            batch_size = require_whole("Data", "batch_size", batch_size, 1)
            if batch_size > self.examples:
                raise InputError(
                    f"Data: batch_size must be from 1 to the {self.examples} examples, "
                    f"got {batch_size}"
                )
        if not isinstance(shuffle, bool):
            raise InputTypeError(f"Data: shuffle must be True or False, got {shuffle!r}")
        self.batch_size = batch_size
        self.shuffle = shuffle and batch_size is not None
        self._epoch = -1
        self._orders: dict[int, Tensor] = {}  # of this epoch, by seed

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which a run sees its examples once."""
        return 1 if self.batch_size is None else self.examples // self.batch_size

    def check(self, runs: int) -> None:
        """Raises unless there is a data set for each of `runs` runs."""
        if self.of_run is not None and len(self.of_run) != runs:
            raise InputError(
                f"Data: of_run must have one data set for each of the {runs} runs, "
                f"got {len(self.of_run)}"
            )

    def to(self, device: torch.device) -> None:
        """Moves the tensors to where the runs are."""
        self.tensors = tuple(tensor.to(device) for tensor in self.tensors)

    def sample(self) -> tuple[Tensor, ...]:
        """A batch as a step sees it, of one row if rows have their own."""
        return self.batch(0, torch.zeros(1, dtype=torch.int64), [0])

    def of_one_row(self) -> tuple[Tensor, ...]:
        """A batch as the loss of one run sees it."""
        sample = self.sample()
        return sample if self.shared else tuple(tensor[0] for tensor in sample)

    def digest(self) -> str:
        """SHA-256 of the tensors and of how they are dealt out."""
        of_run = None if self.of_run is None else self.of_run.tolist()
        found = hashlib.sha256(repr((self.batch_size, self.shuffle, of_run)).encode())
        for tensor in self.tensors:
            found.update(repr((tensor.shape, tensor.dtype)).encode())
            found.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    @property
    def shared(self) -> bool:
        """Whether every run sees the same tensors in the same order."""
        return self.of_run is None and not self.shuffle

    def batch(self, step: int, runs: Tensor, seeds: Sequence[int]) -> tuple[Tensor, ...]:
        """The tensors of step `step`, 0 the first: shared ones, or `[rows, B, ...]`.

        `runs` `[rows]` and `seeds` say whose rows these are.
        """
        epoch, index = divmod(step, self.steps_per_epoch)
        size = self.batch_size or self.examples
        places = slice(index * size, (index + 1) * size)
        if self.shared:
            return tuple(tensor[places] for tensor in self.tensors)
        device = self.tensors[0].device
        if not self.shuffle:
            assert self.of_run is not None
            where = self.of_run[runs].to(device)
            return tuple(tensor[where, places] for tensor in self.tensors)
        chosen = torch.stack([self._order(seed, epoch)[places] for seed in seeds])
        chosen = chosen.to(device)
        if self.of_run is None:
            return tuple(tensor[chosen] for tensor in self.tensors)
        where = self.of_run[runs].to(device)[:, None]
        return tuple(tensor[where, chosen] for tensor in self.tensors)

    def _order(self, seed: int, epoch: int) -> Tensor:
        """Example i of an epoch comes by the rank of word pair i, counter (i, 0, epoch, stream)."""
        if epoch != self._epoch:
            self._epoch, self._orders = epoch, {}
        if seed not in self._orders:
            counter = np.zeros((self.examples, 4), dtype=np.uint64)
            counter[:, 0] = np.arange(self.examples)
            counter[:, 2], counter[:, 3] = epoch, ORDER_STREAM
            words = philox4x32(counter, key_words(seed))
            ranks = words[:, 0] << np.uint64(32) | words[:, 1]
            self._orders[seed] = torch.from_numpy(np.argsort(ranks, kind="stable"))
        return self._orders[seed]
