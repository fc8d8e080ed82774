"""The numbers of a grid as JSON, and as a report that sets the published ones beside them."""

import math

import torch

from fractalkern.dimension import DimensionResult
from fractalkern.experiments.finetune.config import OPTIMIZERS, FinetuneConfig
from fractalkern.experiments.finetune.corpus import Corpus
from fractalkern.experiments.finetune.findings import Boundary, Findings
from fractalkern.experiments.finetune.reference import PUBLISHED
from fractalkern.experiments.finetune.training import HEAD_DECAY
from fractalkern.experiments.study import Study
from fractalkern.experiments.study.scalars import finite

_LEVEL = 0.05


def summary(config: FinetuneConfig, found: Findings, study: Study) -> dict[str, object]:
    """The content of summary.json."""
    runs = config.seeds * config.resolution**2
    return {
        "protocol": config.protocol,
        "runs": runs,
        "converged": [float(mask.double().mean()) for mask in found.converged],
        "stable": [float(mask.double().mean()) for mask in found.stable],
        "boundaries": [_json(boundary) for boundary in found.boundaries],
        "published_rule_on_straight_edges": list(found.line),
        "share_of_cells_whose_label_depends_on_the_seed": found.disagreeing,
        "width_in_cells_of_the_band_in_which_it_does": found.band,
        "compute_seconds": study.compute_seconds(),
        "seconds": study.seconds(),
    }


def _json(boundary: Boundary) -> dict[str, object]:
    published = boundary.published
    return {
        "published_rule": None if published is None else float(published),
        "published_pixels": boundary.published_pixels,
        "sign_edges": _numbers(boundary.results["smooth"]) if boundary.results else None,
        "p": {name: float(result.p_value) for name, result in boundary.results.items()},
        "reason": boundary.reason,
    }


def _numbers(result: DimensionResult) -> dict[str, object]:
    low, high = (finite(float(end)) for end in result.interval)
    return {
        "dimension": float(result),
        "low": low,
        "high": high,
        "slope": float(result.slope),
        "local_slopes": dict(zip(result.sizes, result.local_slopes.tolist(), strict=True)),
    }


def text(config: FinetuneConfig, found: Findings, corpus: Corpus) -> str:
    """The report, in Markdown."""
    parts = [
        f"# Fine-tuning by pairs of learning rates, protocol {config.protocol}",
        _what(config, corpus),
        "## Verdict",
        "\n".join(f"- {line}" for line in verdict(config, found)),
        "## Boundaries",
        _boundaries(config, found),
        "## As published, with 561 million parameters and 64 x 64 runs",
        _reference(found),
    ]
    return "\n\n".join(parts) + "\n"


def verdict(config: FinetuneConfig, found: Findings) -> list[str]:
    """What the grid says, a sentence each."""
    lines = [_divergence(config, found)]
    if config.protocol == "published":
        lines.append(
            f"At the lowest pair of rates, which trains least, the last batches have "
            f"{float(found.ratio[0, 0, 0]):.3f} times the loss of the first: about what the "
            f"criterion reads off the order of the data alone."
        )
    for seed, boundary in enumerate(found.boundaries, config.seed):
        lines.append(f"Seed {seed}: {_sentence(boundary)}")
    if found.disagreeing is not None:
        share = f"{100 * found.disagreeing:.1f} % of the cells converge with one order of the data"
        lines.append(f"{share} and not with another.")
        if found.band is not None:
            lines[-1] = (
                f"{share} and not with another, {found.band:.2g} for each cell of the boundary. "
                f"Structure finer than so many cells may be of the order, not of the rates."
            )
    lines.append(
        f"The original's rule gives D = {found.line[0]:.2f} to {found.line[1]:.2f} to straight "
        f"edges of {config.resolution} x {config.resolution} cells, by which row they lie along."
    )
    return lines


def _divergence(config: FinetuneConfig, found: Findings) -> str:
    diverged = ~found.stable
    if not diverged.any():
        return "Every loss stayed finite, so what is mapped is no boundary of stability."
    # AdamW multiplies the head by 1 - rate x decay in each step, whatever the gradient.
    limit = 2 / (HEAD_DECAY * config.head_factor)
    beyond = diverged[:, :, torch.tensor(config.axis(1)) > limit]
    what = (
        f"{100 * float(diverged.double().mean()):.1f} % of the runs diverged to losses that are "
        "not finite"
    )
    if beyond.any():
        share = 100 * float(beyond.sum()) / float(diverged.sum())
        what += (
            f", {share:.0f} % of them at rates of the head above {limit:.3g}, where AdamW's weight "
            f"decay of {HEAD_DECAY:g} alone makes its weights grow"
        )
    return what + "."


def _sentence(boundary: Boundary) -> str:
    if not boundary.results:
        return f"no dimension, as {boundary.reason}."
    smooth, noisy, marginal = (
        boundary.results[name] for name in ("smooth", "smooth+noise", "marginal")
    )
    p_smooth, p_noisy, p_marginal = (float(one.p_value) for one in (smooth, noisy, marginal))
    if p_smooth > _LEVEL:
        what = f"not told apart from a smooth boundary (p = {p_smooth:.3f})"
    elif p_noisy > _LEVEL:
        what = (
            f"rougher than a smooth boundary (p = {p_smooth:.3f}), but not than one with noise of "
            f"half a cell (p = {p_noisy:.3f})"
        )
    else:
        what = (
            f"rougher than a smooth boundary and than one with noise of half a cell "
            f"(p = {p_smooth:.3f} and {p_noisy:.3f})"
        )
    if p_marginal > _LEVEL:
        what += (
            f"; not told apart from cells that are drawn each by itself with the frequency of its "
            f"row (p = {p_marginal:.3f})"
        )
    interval = _interval(smooth)
    return f"D without an interval, {what}." if interval is None else f"D = {interval}, {what}."


def _what(config: FinetuneConfig, corpus: Corpus) -> str:
    layers = f"{config.layers} layer{'s' * (config.layers > 1)}"
    of = f"the second half of {config.text}" if config.text else "answers to generated records"
    cap = f"logits within {config.soft_cap:g}" if config.soft_cap else "logits unbounded"
    judged = (
        "A run converged if the mean of its last 20 training losses is below its first, which is "
        "of another batch: the original's criterion."
        if config.protocol == "published"
        else "A run converged if its loss on 64 texts that are not trained on ended below where it "
        "began."
    )
    factor = ""
    if config.head_factor != 1:
        factor = f" As in the original its rate is {config.head_factor:.3g} times that of the axis."
    return (
        f"{layers} of width {config.width} over {len(corpus.alphabet)} characters, {cap}, trained "
        f"for {config.pretraining:,} steps, then {config.steps:,} steps of {config.batch} texts "
        f"({of}) for each of {config.resolution} x {config.resolution} pairs of rates and "
        f"{config.seeds} order{'s' * (config.seeds > 1)} of the data. Matrices of the blocks: "
        f"{OPTIMIZERS[config.optimizer]}; head: AdamW; embedding frozen; {config.schedule} "
        f"schedule behind a warm-up of {config.warmup} step{'s' * (config.warmup > 1)}."
        f"{factor} {judged}\n\n"
        f"Other than the original's (in brackets): {_differences(config, corpus)}."
    )


def _differences(config: FinetuneConfig, corpus: Corpus) -> str:
    """What differs from the original's model and training, its value in brackets."""
    return (
        f"width {config.width} (1,280); layers {config.layers} (20); heads {config.heads} (10); "
        f"batch {config.batch} (48, or 8 on smaller cards); steps {config.steps:,} (250,000 over "
        f"the supervised tokens of the first batch); {len(corpus.alphabet)} characters (65,536 "
        f"tokens); texts and weights of its own (DocVQA, a trained nanochat); float32 (bfloat16 "
        f"autocast)"
    )


def _boundaries(config: FinetuneConfig, found: Findings) -> str:
    lines = [
        "| seed | converged | boundary cells (original's) | D, original's rule | D, 95 % interval "
        "| slope | p, smooth | p, smooth + noise | p, each cell by itself |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for number, boundary in enumerate(found.boundaries):
        share = 100 * float(found.converged[number].double().mean())
        published = "-" if boundary.published is None else f"{float(boundary.published):.3f}"
        row = [
            str(config.seed + number),
            f"{share:.1f} %",
            f"{boundary.published_pixels:,}",
            published,
        ]
        if boundary.results:
            smooth = boundary.results["smooth"]
            row += [_interval(smooth) or "none given", f"{float(smooth.slope):.3f}"]
            row += [f"{float(one.p_value):.3f}" for one in boundary.results.values()]
        else:
            row += [boundary.reason, *["-"] * 4]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _interval(result: DimensionResult) -> str | None:
    low, high = (float(end) for end in result.interval)
    if math.isnan(low):
        return None
    return f"{float(result):.3f} ({low:.3f} to {high:.3f})"


def _reference(found: Findings) -> str:
    lines = [
        "| grid | converged | boundary cells | D, its rule | slope of sign edges |",
        "| --- | --- | --- | --- | --- |",
    ]
    for grid in PUBLISHED:
        edges = "no picture" if grid.sign_edges is None else f"{grid.sign_edges:.3f}"
        row = grid.name, f"{grid.converged:.1f} %", f"{grid.pixels:,}", grid.dimension, edges
        lines.append(f"| {' | '.join(row)} |")
    lines.append(
        "\nIts rule counts converged cells at the frame as boundary and adds 1 to each count. The "
        "slopes of sign edges, and both rows of boxes, were measured on its pictures."
    )
    return "\n".join(lines)
