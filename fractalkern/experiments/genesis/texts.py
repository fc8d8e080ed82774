"""Problems as tensors: tokens, what the loss counts, where the answer stands."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fractalkern.errors import InputError
from fractalkern.experiments.genesis.problems import KINDS, PUBLISHED, Problem, every, outside
from fractalkern.experiments.genesis.tokenizer import Tokenizer


@dataclass(frozen=True)
class Texts:
    """Encoded problems, padded behind.

    Attributes:
        tokens: int64 `[N, T]`; padding is the end token.
        lengths: int64 `[N]`, of the text, without its end.
        prompts: int64 `[N]`, tokens of the prompt.
    """

    tokens: Tensor
    lengths: Tensor
    prompts: Tensor

    @property
    def padding(self) -> Tensor:
        """Bool `[N, T]`: behind the text."""
        return self._places >= self.lengths[:, None]

    @property
    def spoken(self) -> Tensor:
        """Bool `[N, T]`: the text and one end."""
        return self._places <= self.lengths[:, None]

    @property
    def answers(self) -> Tensor:
        """Bool `[N, T]`: the answer's tokens and the end behind them."""
        return self.spoken & (self._places >= self.prompts[:, None])

    @property
    def _places(self) -> Tensor:
        return torch.arange(self.tokens.shape[1], device=self.tokens.device)


def everything() -> list[str]:
    """Every text that a tokenizer must know."""
    problems = [p for kind in KINDS for p in (*every(kind), *outside(kind))]
    return [problem.text for problem in (*problems, *PUBLISHED)]


def encode(problems: Sequence[Problem], tokenizer: Tokenizer, length: int) -> Texts:
    """Tensors of `length` tokens a text.

    Raises:
        InputError: a text has no room for its end, or its prompt's tokens do not begin it.
    """
    tokens = torch.full((len(problems), length), tokenizer.end)
    lengths, prompts = [], []
    known = {problem: (tokenizer.encode(problem.text), tokenizer.encode(problem.prompt))
             for problem in dict.fromkeys(problems)}  # fmt: skip
    for row, problem in enumerate(problems):
        text, prompt = known[problem]
        if text[: len(prompt)] != prompt or len(text) >= length:
            raise InputError(
                f"tokenizer must give {problem.text!r} fewer than {length} tokens that begin with "
                f"those of its prompt, got {len(text)}"
            )
        tokens[row, : len(text)] = torch.tensor(text)
        lengths.append(len(text))
        prompts.append(len(prompt))
    return Texts(tokens, torch.tensor(lengths), torch.tensor(prompts))


def longest(tokenizer: Tokenizer) -> int:
    """Tokens of the longest text and its end."""
    return 1 + max(len(tokenizer.encode(text)) for text in everything())
