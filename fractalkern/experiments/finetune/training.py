"""The model before the grid, and the runs of the grid."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fractalkern.ensemble import SGD, AdamW, Data, Ensemble, Muon, Schedule
from fractalkern.ensemble.optimizers import Optimizer
from fractalkern.experiments.finetune.config import FinetuneConfig
from fractalkern.experiments.finetune.corpus import Corpus
from fractalkern.experiments.finetune.model import Transformer, initialise
from fractalkern.experiments.study import Series
from fractalkern.experiments.token_loss import spoken_loss

HEAD_DECAY = 0.1
_BETAS, _EPSILON = (0.8, 0.95), 1e-10
_LAST = 20  # training losses that the published criterion averages
# Of the training before the grid: batch, Muon's rate, AdamW's of embedding and head.
_FIRST_BATCH, _FIRST_RATE, _FIRST_OTHER_RATE = 32, 0.02, 3e-3


@dataclass(frozen=True)
class Cell:
    """A run of the grid: its place, its rates as on the axes, the seed of its order."""

    number: int
    row: int
    column: int
    matrix_rate: float
    head_rate: float
    seed: int

    def label(self) -> dict[str, object]:
        """What its row of runs.jsonl begins with."""
        return {
            "run": self.number,
            "matrix_rate": self.matrix_rate,
            "head_rate": self.head_rate,
            "seed": self.seed,
        }


def cells(config: FinetuneConfig) -> list[Cell]:
    """All runs, seed by seed and row by row."""
    found: list[Cell] = []
    rates = [list(enumerate(config.axis(number))) for number in (0, 1)]
    for seed in range(config.seed, config.seed + config.seeds):
        for row, matrix_rate in rates[0]:
            for column, head_rate in rates[1]:
                found.append(Cell(len(found), row, column, matrix_rate, head_rate, seed))
    return found


def pretrain(config: FinetuneConfig, corpus: Corpus, title: str | None) -> dict[str, Tensor]:
    """The weights that all runs start from, by name; with no steps those of `initialise`."""

    def build(run: int) -> Transformer:
        model = _model(config, corpus)
        initialise(model)
        return model

    tokens, counted = corpus.base.tokens, corpus.base.counted
    ensemble = Ensemble(
        build,
        spoken_loss,
        [
            (_is_of_block, Muon(lr=_FIRST_RATE, weight_decay=0.0)),
            (_is_any, AdamW(lr=_FIRST_OTHER_RATE, betas=_BETAS, eps=_EPSILON, weight_decay=0.0)),
        ],
        seeds=[config.seed],
        schedule=Schedule("cosine", steps=config.pretraining) if config.pretraining else None,
        device=config.device,
    )
    if not config.pretraining:
        return {name: p.detach().clone() for name, p in ensemble.module(0).named_parameters()}
    batch = min(_FIRST_BATCH, len(tokens))
    result = ensemble.fit(
        Data(tokens, counted, batch_size=batch), config.pretraining, progress=title
    )
    return {name: stack[0] for name, stack in result.parameters.items()}


def train(
    config: FinetuneConfig,
    corpus: Corpus,
    start: dict[str, Tensor],
    some: Sequence[Cell],
    title: str | None = None,
) -> Series:
    """The scalars of some runs of the grid.

    first_loss and last_loss are of the training: of the first batch, and the mean of the last
    twenty; probe_before and probe_after of texts that are not trained on. NaN from where a
    loss, gradient or weight was not finite.
    """
    probe = corpus.probe.tokens.to(config.device), corpus.probe.counted.to(config.device)
    ensemble, data = together(config, corpus, start, some)
    result = ensemble.fit(
        data,
        config.steps,
        metrics=lambda view: {"probe": view.apply(spoken_loss, *probe)},
        every=config.steps,
        at_start=True,  # as after: where nothing is trained the two are equal, on any device
        progress=title,
    )
    losses = result.losses.double()
    probed = result.metrics["probe"].double()
    return Series(
        [config.steps],
        {
            "first_loss": losses[:, :1],
            "last_loss": losses[:, -min(_LAST, config.steps) :].mean(dim=1, keepdim=True),
            "probe_before": probed[:, :1],
            "probe_after": probed[:, 1:],
        },
    )


def together(
    config: FinetuneConfig, corpus: Corpus, start: dict[str, Tensor], some: Sequence[Cell]
) -> tuple[Ensemble, Data]:
    """Some runs of the grid before their first step, and what they train on."""
    model = _model(config, corpus)
    model.load_state_dict(start)
    model.embedding.weight.requires_grad_(False)
    matrix_rates = [cell.matrix_rate for cell in some]
    head_rates = [config.head_factor * cell.head_rate for cell in some]
    ensemble = Ensemble(
        model,
        spoken_loss,
        [
            (_is_of_block, _of_blocks(config, matrix_rates)),
            (_is_any, AdamW(lr=head_rates, betas=_BETAS, eps=_EPSILON, weight_decay=HEAD_DECAY)),
        ],
        seeds=[cell.seed for cell in some],
        schedule=_schedule(config),
        device=config.device,
    )
    return ensemble, Data(
        corpus.tuning.tokens,
        corpus.tuning.counted,
        batch_size=config.batch,
        shuffle=config.protocol == "fixed",
    )


def _model(config: FinetuneConfig, corpus: Corpus) -> Transformer:
    return Transformer(
        len(corpus.alphabet),
        corpus.length,
        config.width,
        config.layers,
        config.heads,
        config.soft_cap,
    )


def _is_of_block(name: str, parameter: Tensor) -> bool:
    return name.startswith("blocks.")


def _is_any(name: str, parameter: Tensor) -> bool:
    return True


def _of_blocks(config: FinetuneConfig, rates: Sequence[float]) -> Optimizer:
    if config.optimizer == "muon":
        return Muon(lr=rates, weight_decay=0.0)
    if config.optimizer == "adamw":
        return AdamW(lr=rates, betas=_BETAS, eps=_EPSILON, weight_decay=0.0)
    return SGD(lr=rates)


def _schedule(config: FinetuneConfig) -> Schedule:
    if config.schedule == "constant" or config.warmup >= config.steps:
        return Schedule("constant", warmup=config.warmup)
    return Schedule("cosine", steps=config.steps, warmup=config.warmup)
