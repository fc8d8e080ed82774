"""Models inside a model: slices, initial losses, gradients, training, findings, run folder."""

import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
from pictures import assert_no_text_runs_off

from fractalkern import cli
from fractalkern.errors import InputError
from fractalkern.experiments import records
from fractalkern.experiments.fractalformer import figures, report, training
from fractalkern.experiments.fractalformer import run as experiment
from fractalkern.experiments.fractalformer.config import (
    FractalFormerConfig,
    differences,
    preset,
)
from fractalkern.experiments.fractalformer.corpus import Corpus, corpus
from fractalkern.experiments.fractalformer.findings import find
from fractalkern.experiments.fractalformer.model import FractalFormer, parameters_of
from fractalkern.experiments.fractalformer.training import (
    continued,
    evaluated,
    jobs,
    joint_loss,
    losses,
    train,
)
from fractalkern.experiments.study import Series

ALL = [(level, model) for level in range(3) for model in range(2**level)]


def small(**changes) -> FractalFormerConfig:
    sizes = dict(width=32, heads=2, layers=1, context=12, batch=3, steps=4, every=2, texts=60)
    return dataclasses.replace(FractalFormerConfig(), **{**sizes, "seeds": 2, **changes})


def published(**changes) -> FractalFormerConfig:
    return small(**{**dict(protocol="published", scaled=False, dropout=0.0), **changes})


def model(width=32, heads=2, layers=2, levels=3, vocabulary=20, **options) -> FractalFormer:
    torch.manual_seed(0)
    made = FractalFormer(vocabulary, 12, width, heads, layers, levels, **options)
    for name, parameter in made.named_parameters():
        if "norm" in name or "before" in name:
            torch.nn.init.normal_(parameter, std=0.3)  # 0 would hide which entries a slice takes
    return made


def windows(vocabulary=20, count=3, length=13) -> torch.Tensor:
    return torch.randint(vocabulary, (count, length), generator=torch.Generator().manual_seed(1))


# Slices, written down entry by entry.


def indices(name, level, number, width, heads):
    """Which entries along each axis of a parameter the sub-model owns, by the published rule."""
    d, k, h, head = width >> level, 4 * (width >> level), width // heads >> level, width // heads
    stream = list(range(number * d, number * d + d))
    inner = list(range(number * k, number * k + k))
    queries = [head * q + number * h + i for q in range(heads) for i in range(h)]
    keys = list(range(number * h, number * h + h))
    return {
        "embedding": (None, stream),
        "query": (stream, queries),
        "key": (stream, keys),
        "value": (stream, keys),
        "output": (queries, stream),
        "gate": (stream, inner),
        "gate_bias": (inner,),
        "up": (stream, inner),
        "up_bias": (inner,),
        "down": (inner, stream),
        "down_bias": (stream,),
    }.get(name.rpartition(".")[2], (stream,))


def taken(parameter, axes):
    for axis, places in enumerate(axes):
        if places is not None:
            parameter = parameter.index_select(axis, torch.tensor(places))
    return parameter


def copied(whole, level, number, heads=2):
    """The weights of a sub-model by themselves."""
    width = whole.embedding.shape[1]
    return {
        name: taken(p.detach(), indices(name, level, number, width, heads))
        for name, p in whole.named_parameters()
    }


def plain_logits(weights, tokens, heads, layers, scaled):
    """A small transformer by the formulas, one head and one position after the other."""
    width = weights["embedding"].shape[1]
    h = width // heads

    def norm(x, scale):
        return F.rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale)

    def turned(x):  # [B, T, h]: complex numbers turn by their product with e^{i angle}
        turns = [
            torch.tensor([t * 100.0 ** (-2 * i / h) for i in range(h // 2)])
            for t in range(x.shape[1])
        ]
        angles = torch.stack(turns)
        pairs = torch.complex(x[..., : h // 2].contiguous(), x[..., h // 2 :].contiguous())
        pairs = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((pairs.real, pairs.imag), dim=-1)

    x = norm(weights["embedding"][tokens], weights["input_norm"])
    for number in range(layers):
        w = {n.split(".")[2]: p for n, p in weights.items() if n.startswith(f"layers.{number}.")}
        y = norm(x, w["before_attention"])
        key, value = turned(y @ w["key"]), y @ w["value"]
        mixed = []
        for q in range(heads):
            query = turned((y @ w["query"])[..., q * h : q * h + h])
            mixed.append(F.scaled_dot_product_attention(query, key, value, is_causal=True))
        x = x + torch.cat(mixed, dim=-1) @ w["output"]
        y = norm(x, w["before_network"])
        gate = F.gelu(y @ w["gate"] + w["gate_bias"])
        x = x + (gate * (y @ w["up"] + w["up_bias"])) @ w["down"] + w["down_bias"]
    logits = norm(x, weights["final_norm"]) @ norm(weights["embedding"], weights["output_norm"]).T
    return logits / math.sqrt(width) if scaled else logits


def test_parameters_are_as_many_as_published():
    sizes = (128, 64, 32)
    assert [parameters_of(128, width, 4, 4) for width in sizes] == [972_672, 248_768, 64_992]
    for width in sizes:
        alone = FractalFormer(128, 2, width, 4, 4, levels=1)
        assert sum(p.numel() for p in alone.parameters()) == parameters_of(128, width, 4, 4)
    whole = FractalFormer(128, 2, 128, 4, 4, levels=3)
    for level, number in ALL:
        own = copied(whole, level, number, heads=4)
        assert sum(map(torch.numel, own.values())) == parameters_of(128, 128 >> level, 4, 4)


@pytest.mark.parametrize(("level", "number"), ALL)
def test_a_sub_model_is_the_small_model_of_its_slices(level, number):
    whole = model()
    tokens = windows()[:, :-1]
    own = copied(whole, level, number)
    expected = plain_logits(own, tokens, heads=2, layers=2, scaled=True)
    torch.testing.assert_close(whole(tokens, level, number), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole(tokens, level)[number], expected, rtol=1e-4, atol=1e-5)
    alone = model(width=32 >> level, levels=1)
    alone.load_state_dict(own)
    torch.testing.assert_close(alone(tokens, 0, 0), expected, rtol=1e-4, atol=1e-5)


def test_slices_nest_and_those_of_a_level_are_disjoint():
    whole = {name: p.shape for name, p in model().named_parameters()}
    for name, shape in whole.items():
        places = torch.arange(math.prod(shape)).view(shape)
        owned = {one: set(taken(places, indices(name, *one, 32, 2)).flatten().tolist())
                 for one in ALL}  # fmt: skip
        assert owned[0, 0] == set(range(places.numel()))
        for level, number in ALL[1:]:
            assert owned[level, number] < owned[level - 1, number // 2]
        for level in (1, 2):
            sizes = [len(owned[level, number]) for number in range(2**level)]
            assert len(set.union(*(owned[level, m] for m in range(2**level)))) == sum(sizes)


def test_no_token_sees_a_later_one():
    ours, tokens = model(), windows()[:, :-1]
    changed = tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 20
    for level in range(3):
        before, after = ours(tokens, level), ours(changed, level)
        torch.testing.assert_close(before[:, :, :7], after[:, :, :7])
        assert not torch.allclose(before[:, :, 7:], after[:, :, 7:])


def test_unscaled_logits_begin_at_about_a_nat_for_each_unit_of_width():
    torch.manual_seed(0)
    fresh = FractalFormer(128, 32, 128, 4, 4, 3, scaled=False, first_output_norm=True)
    tokens = torch.randint(128, (4, 33))
    for level, expected in enumerate((118, 62, 31)):
        for loss in losses(fresh, tokens, level).tolist():
            assert loss == pytest.approx(expected, rel=0.15)


def test_weights_start_uniform_to_the_root_of_their_inputs():
    torch.manual_seed(0)
    fresh = FractalFormer(128, 2, 64, 4, 1, 3)
    for name, parameter in fresh.named_parameters():
        if name == "embedding":
            assert parameter.std().item() == pytest.approx(1, abs=0.02)
        elif "norm" in name or "before" in name:
            assert not parameter.any()
        else:
            bound = (256 if "down" in name else 64) ** -0.5
            assert parameter.abs().max().item() <= bound
            assert parameter.abs().max().item() > 0.9 * bound
            assert abs(parameter.mean().item()) < 0.2 * bound


def test_published_output_norm_is_that_of_model_0():
    tokens = windows()[:, :-1]
    whole, mended = model(first_output_norm=True), model()
    assert torch.equal(whole(tokens, 1, 0), mended(tokens, 1, 0))
    own = copied(whole, 1, 1)
    own["output_norm"] = whole.output_norm.detach()[:16]
    expected = plain_logits(own, tokens, heads=2, layers=2, scaled=True)
    torch.testing.assert_close(whole(tokens, 1, 1), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole(tokens, 1, 1), mended(tokens, 1, 1))


def test_dropout_drops_in_training_alone():
    tokens = windows()[:, :-1]
    kept, dropping = model().train(), model(dropout=0.5).train()
    assert torch.equal(kept(tokens, 1), kept(tokens, 1))
    assert not torch.equal(dropping(tokens, 1), dropping(tokens, 1))
    assert torch.equal(dropping.eval()(tokens, 1), kept.eval()(tokens, 1))


# The loss, and who gets gradients.


def gradients(whole, loss):
    found = torch.autograd.grad(loss, list(whole.parameters()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if grad is None else grad
        for (name, p), grad in zip(whole.named_parameters(), found, strict=True)
    }


def test_published_loss_has_nine_terms_of_three_kinds():
    whole, tokens = model(scaled=False, first_output_norm=True), windows()
    # As the original's loop: the inner one enumerates the widths, whatever the level.
    widths = [32 >> level for level in range(3)]
    terms = [
        losses(whole, tokens, place, place) for _ in range(3) for place, _ in enumerate(widths)
    ]
    assert len(terms) == 9
    torch.testing.assert_close(joint_loss(published(), whole, tokens), sum(terms))
    weights = [published().weight(one) for one in ALL]
    assert weights == [3, 0, 3, 0, 0, 3, 0]


def test_fixed_loss_has_a_term_for_every_sub_model():
    whole, tokens = model(), windows()
    terms = {one: losses(whole, tokens, *one) for one in ALL}
    torch.testing.assert_close(joint_loss(small(), whole, tokens), sum(terms.values()))
    config = small(level_weights=(0.5, 0.0, 2.0))
    expected = 0.5 * terms[0, 0] + 2 * sum(terms[2, m] for m in range(4))
    torch.testing.assert_close(joint_loss(config, whole, tokens), expected)


def test_sub_models_without_a_loss_only_learn_as_parts_of_larger_ones():
    whole, tokens = model(scaled=False, first_output_norm=True), windows()
    config = published()
    total = gradients(whole, joint_loss(config, whole, tokens))
    first = gradients(whole, 3 * losses(whole, tokens, 0, 0))
    second = gradients(whole, 3 * losses(whole, tokens, 1, 1))
    for one, reasons in (
        ((1, 0), (first,)),
        ((2, 0), (first,)),
        ((2, 1), (first,)),
        ((2, 3), (first, second)),
    ):
        for name, _ in whole.named_parameters():
            if name == "output_norm":  # of model 0 whichever model is asked
                continue
            axes = indices(name, *one, 32, 2)
            expected = sum(taken(reason[name], axes) for reason in reasons)
            torch.testing.assert_close(taken(total[name], axes), expected, rtol=1e-4, atol=1e-6)
            assert expected.any(), name


def test_losses_of_one_half_leave_the_other_untouched():
    whole, tokens = model(scaled=False, first_output_norm=True), windows()
    only = gradients(whole, losses(whole, tokens, 1, 1) + losses(whole, tokens, 2, 2))
    for name, grad in only.items():
        other = taken(grad, indices(name, 1, 0, 32, 2))
        own = taken(grad, indices(name, 1, 1, 32, 2))
        if name == "output_norm":  # the published slip: it is the other half that moves
            assert other.any() and not own.any()
            continue
        assert own.any() and not other.any()
        if len(grad.shape) == 2 and name != "embedding":  # blocks off the diagonal as well
            assert grad.count_nonzero() == own.count_nonzero()


# The text.


def test_frequencies_alone_cost_their_entropy():
    tokens = torch.tensor([0, 1, 1, 1] * 5000)
    texts = Corpus({}, "ab", tokens, tokens, 4)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert texts.by_frequency() == pytest.approx(entropy, rel=1e-3)


def test_the_last_tenth_is_for_validation():
    texts = corpus(small())
    text = "".join(one.text for one in records.conversations(60, seed=0))
    assert texts.said(torch.cat((texts.train, texts.validation))) == text
    assert len(texts.validation) == len(text) // 10
    probes = texts.probes()
    assert probes.shape == (2, 64, 13)
    assert torch.equal(probes[0, 0], texts.train[:13])
    assert torch.equal(probes[1, -1], texts.validation[-13:])
    assert texts.places == len(texts.train) - 12


def test_what_is_no_text_is_a_sentence(tmp_path):
    path = tmp_path / "text.txt"
    with pytest.raises(InputError, match=r"text must be a readable file, but .*: No such file"):
        corpus(small(text=str(path)))
    path.write_text("too short")
    with pytest.raises(InputError, match=r"text must have at least 760 characters, got 9"):
        corpus(small(text=str(path)))
    path.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(InputError, match="text must be UTF-8"):
        corpus(small(text=str(path)))
    with pytest.raises(InputError, match=r"texts must make at least 760 characters, got"):
        corpus(small(texts=5))


def test_a_text_file_is_learnt_instead(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("to be or not to be\n" * 60)
    texts = corpus(small(text=str(path)))
    assert texts.alphabet == "\n benort"
    assert texts.said(texts.train[:18]) == "to be or not to be"


# The training.


def plain_run(config, texts, seed):
    """The losses of joint training by torch's own AdamW, on the windows of the ensemble's order."""
    from fractalkern.ensemble import Data

    torch.manual_seed(seed)
    whole = training.build(config, len(texts.alphabet))
    optimizer = torch.optim.AdamW(whole.parameters(), lr=config.learning_rate, weight_decay=0.01)
    data = Data(torch.arange(texts.places), batch_size=config.batch)
    curve = [evaluated(whole, texts.probes(), config.levels)]
    for step in range(config.steps):
        (places,) = data.batch(step, torch.tensor([0]), [seed])
        some = torch.stack([texts.train[place : place + config.context + 1] for place in places[0]])
        optimizer.zero_grad()
        joint_loss(config, whole, some).backward()
        optimizer.step()
        if (step + 1) % config.every == 0:
            curve.append(evaluated(whole, texts.probes(), config.levels))
    return torch.stack(curve).detach()


@pytest.mark.parametrize("config", [published(schedule="constant"),
                                    small(dropout=0.0, schedule="constant")])  # fmt: skip
def test_runs_are_those_of_torchs_optimiser(config):
    texts = corpus(config)
    (job, *_) = jobs(config)
    series, arrays = train(config, texts, job)
    assert series.steps == [0, 2, 4]
    for place, seed in enumerate(job.seeds):
        expected = plain_run(config, texts, seed)
        for column, (level, number) in enumerate(ALL):
            for row, part in enumerate(("train", "validation")):
                found = series.scalars[f"{part}_{level}_{number}"][place].float()
                torch.testing.assert_close(found, expected[:, row, column], rtol=1e-3, atol=1e-3)
    assert arrays["samples"].shape == (7, 12 + 40)


def test_a_twin_is_a_model_of_the_levels_width_on_the_same_windows():
    config = small(dropout=0.0)
    plan = jobs(config)
    assert [job.level for job in plan] == [None, 0, 1, 2]
    assert [run for job in plan for run in job.runs] == list(range(8))
    assert all(job.seeds == (0, 1) for job in plan)
    texts = corpus(config)
    twin = training.build(config, len(texts.alphabet), level=2)
    assert sum(p.numel() for p in twin.parameters()) == parameters_of(len(texts.alphabet), 8, 2, 1)
    assert twin.layers[0].query.abs().max() > 1.5 * 32**-0.5  # its own 8 inputs, not 32
    series, arrays = train(config, texts, plan[-1])
    assert series.scalars.keys() == {"train", "validation"}
    assert series.scalars["validation"].shape == (2, 3)
    assert not arrays
    # A whole model without further levels is its own twin, by the same windows in the same order.
    lonely = small(dropout=0.0, levels=1, level_weights=(1.0,))
    joint, alone = (train(lonely, texts, job)[0].scalars for job in jobs(lonely))
    torch.testing.assert_close(joint["validation_0_0"], alone["validation"], rtol=1e-4, atol=1e-4)
    assert [job.level for job in jobs(published())] == [None]
    assert [job.seeds for job in jobs(small(seeds=5, group=2))][:3] == [(0, 1), (2, 3), (4,)]


def test_every_sub_model_learns_but_as_published_only_three():
    sizes = dict(steps=80, every=80, width=32, context=16, batch=6, learning_rate=1e-2,
                 seeds=1, texts=400)  # fmt: skip
    ends = {}
    for config in (small(**sizes), published(**sizes, schedule="constant")):
        texts = corpus(config)
        series, _ = train(config, texts, jobs(config)[0])
        guess = math.log(len(texts.alphabet))
        ends[config.protocol] = [
            series.scalars[f"validation_{level}_{number}"][0, -1].item() < guess
            for level, number in ALL
        ]
    assert ends["fixed"] == [True] * 7
    assert ends["published"] == [True, False, True, False, False, True, False]


def test_a_sample_is_what_the_model_finds_likeliest():
    whole, given = model(), windows()[0, :5]
    found = continued(whole, given, (1, 1), count=10)
    assert torch.equal(found[:5], given)
    for place in range(5, 15):
        seen = found[None, max(0, place - 12) : place]  # the last 12, the most it takes
        assert found[place] == whole(seen, 1, 1)[0, -1].argmax()


# The findings.


def planted(config, joint, twins=None) -> list[Series]:
    """A series for each job that ends in these losses, {(l, m): [a seed each]} and {l: [...]}."""

    def curve(values):
        last = torch.tensor(values, dtype=torch.float64)[:, None]
        return torch.cat((torch.full_like(last, 9.0), last), dim=1)

    found = []
    for job in jobs(config):
        if job.level is None:
            scalars = {f"{part}_{level}_{number}": curve(values)
                       for (level, number), values in joint.items()
                       for part in ("train", "validation")}  # fmt: skip
        else:
            scalars = {part: curve(twins[job.level]) for part in ("train", "validation")}
        found.append(Series([0, config.steps], scalars))
    return found


def test_gaps_are_paired_over_seeds():
    config = small(seeds=3)
    joint = {one: [1.0 + 0.1 * one[1], 2.0 + 0.1 * one[1], 3.01 + 0.1 * one[1]] for one in ALL}
    found = find(
        config, 3.0, planted(config, joint, {level: [0.8, 1.8, 2.8] for level in range(3)})
    )
    assert found.by_frequency == 3
    assert found.gaps[1, 1].difference == pytest.approx(0.2 + 0.01 / 3 + 0.1)
    assert found.level_gaps[2].difference == pytest.approx(0.2 + 0.01 / 3 + 0.15)
    # The seeds differ by far more than a sub-model from its twin, which pairs take out.
    assert found.gaps[0, 0].high - found.gaps[0, 0].low < 0.05
    lines = report.verdict(config, found)
    assert any("the whole model is worse than a twin" in line for line in lines)
    assert "joint training does train all 7" in " ".join(lines)


def test_verdict_of_the_published_protocol_names_who_had_no_loss():
    config = published(seeds=1)
    ends = {one: [2.0] if config.weight(one) else [12.0] for one in ALL}
    found = find(config, 3.0, planted(config, ends))
    said = " ".join(report.verdict(config, found))
    assert "a sum of 9 terms, but of 3 different ones, (0, 0), (1, 1) and (2, 2), each 3" in said
    assert "Without one: (1, 0) 12.00, (2, 0) 12.00, (2, 1) 12.00 and (2, 3) 12.00" in said
    assert "not below the 3.00 that guessing by the frequencies of characters costs" in said
    assert "twin" not in said


def test_what_is_not_finite_has_no_gap():
    config = small()
    ends = {one: [2.0, 2.1] for one in ALL}
    twins = {0: [1.0, math.nan], 1: [1.0, 1.0], 2: [1.0, 1.0]}
    found = find(config, 3.0, planted(config, ends, twins))
    assert not found.gaps
    text = report.text(config, found, corpus(config), dict.fromkeys(ALL, "of, on"))
    assert "a loss that is not finite" in text
    assert "| not finite | - | - |" in text
    assert "nan" not in text
    one_seed = small(seeds=1)
    found = find(one_seed, 3.0, planted(one_seed, {one: [2.0] for one in ALL},
                                       {level: [1.0] for level in range(3)}))  # fmt: skip
    assert not found.level_gaps
    assert "for one seed" in " ".join(report.verdict(one_seed, found))
    text = report.text(one_seed, found, corpus(one_seed), dict.fromkeys(ALL, "of, on"))
    assert "| 2.000 | 2.00 | 1.00 | +1.000 | - |" in text


def test_report_says_what_differs_from_the_original():
    assert differences(preset("published", quick=False), 33) == [
        "context 64 (256)",
        "batch 8 (12)",
        "steps 600 (15,000)",
        "learning rate 0.001, constant (3e-4, 1e-4, 3e-5)",
        "the tokens are the 33 characters of the text (128 byte pairs)",
    ]


@pytest.mark.parametrize("config", [small(), published()], ids=["fixed", "published"])
def test_figure_has_room_for_its_words(config):
    ends = {one: [3.0 + one[0]] * config.seeds for one in ALL}
    ends[2, 1] = [100.0] * config.seeds
    ends[2, 2] = [math.nan] * config.seeds
    twins = {level: [2.0 + level] * config.seeds for level in range(3)}
    found = find(config, 3.0, planted(config, ends, twins))
    assert_no_text_runs_off(figures.losses(config, found), edge=3)


# The run folder and the command.


def test_a_run_writes_what_it_says_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    config = small(levels=2, level_weights=(1.0, 1.0), steps=2, every=1)
    text = experiment.run(config, tmp_path / "whole")
    lines = (tmp_path / "whole" / "runs.jsonl").read_text().splitlines()
    assert len(lines) == 6 * 3
    assert (tmp_path / "whole" / "report.md").read_text() == text
    rows = [json.loads(line) for line in lines]
    ends = [row["validation_1_1"] for row in rows if row["kind"] == "joint" and row["step"] == 2]
    twins = [row["validation"] for row in rows
             if row["kind"] == "twin" and row["level"] == 1 and row["step"] == 2]  # fmt: skip
    content = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert content["submodels"]["(1, 1)"]["validation"] == ends
    gap = content["submodels"]["(1, 1)"]["gap_to_twin"]["difference"]
    assert gap == pytest.approx(sum(ends) / 2 - sum(twins) / 2)
    assert "|" in text and all(f"    ({level}, {m})  " in text for level, m in config.submodels)

    trained = []

    def stopping(config, texts, job, title, checkpoint):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(job)
        return train(config, texts, job, title, checkpoint)

    monkeypatch.setattr(experiment, "train", stopping)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(config, tmp_path / "parts")
    assert "2 of 3 parts are finished and kept" in capsys.readouterr().err
    monkeypatch.setattr(experiment, "train", train)
    assert experiment.run(config, tmp_path / "parts") == text
    for name in ("runs.jsonl", "losses.png", "config.toml"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--width", "60"], "width must be a multiple of heads x 2^levels = 32, so that each head"),
        (["--levels", "2"], "level_weights must be one for each of the 2 levels, got 3"),
        (["--levels", "7"], "levels must be at most 6, got 7"),
        (
            ["--level-weights", "0", "0", "0"],
            "level_weights must be finite, at least 0 and not all 0",
        ),
        (
            ["--level-weights", "1", "-1", "1"],
            "level_weights must be finite, at least 0 and not all 0",
        ),
        (["--every", "7"], "every must divide steps, 500, so that"),
        (["--every", "0"], "every must be at least 1, got 0"),
        (["--context", "1"], "context must be at least 2, got 1"),
        (["--dropout", "1"], "dropout must be in [0, 1), got 1.0"),
        (["--learning-rate", "0"], "learning_rate must be finite and above 0, got 0.0"),
        (["--weight-decay", "-1"], "weight_decay must be finite and at least 0, got -1.0"),
        (["--seed", "-1"], "seed must be an integer from 0"),
        (["--protocol", "published", "--dropout", "0.1"], "dropout must be 0 in the published"),
        (
            ["--protocol", "published", "--level-weights", "1", "1", "0"],
            "level_weights must be left out in the published protocol",
        ),
        (
            ["--protocol", "published", "--scaled"],
            "scaled must be off (--no-scaled) in the published protocol",
        ),
        (["--schedule", "linear"], "linear"),
    ],
)
def test_bad_settings_are_one_sentence(arguments, words, capsys):
    assert cli.main(["fractalformer", *arguments, "--print-config"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("fractalkern: ")
    assert error.count("\n") == 1


def test_settings_come_from_protocol_size_and_options(capsys):
    assert cli.main(["fractalformer", "--protocol", "published", "--quick", "--steps", "75",
                     "--print-config"]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    expected = dataclasses.replace(preset("published", quick=True), steps=75)
    for field in ("protocol", "width", "steps", "scaled", "dropout", "learning_rate"):
        value = getattr(expected, field)
        assert f"{field} = {json.dumps(value)}\n" in printed


def test_a_folder_does_not_go_on_with_another_text(tmp_path, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text("ab" * 2000)

    def stopped(*_):
        raise RuntimeError

    monkeypatch.setattr(experiment, "train", stopped)
    with pytest.raises(RuntimeError):
        experiment.run(small(text=str(path)), tmp_path / "runs")
    path.write_text("ba" * 2000)
    with pytest.raises(InputError, match=r'\(SHA-256 of the text: "\w{64}" -> "\w{64}"\)'):
        experiment.run(small(text=str(path)), tmp_path / "runs")


def test_the_command_writes_into_its_folder(tmp_path, capsys):
    words = ["--quick", "--steps", "2", "--every", "1", "--texts", "60", "--width", "32",
             "--layers", "1", "--seeds", "1", "--context", "12"]  # fmt: skip
    words += ["--out", str(tmp_path / "run")]
    assert cli.main(["fractalformer", *words]) == 0
    assert capsys.readouterr().out == (tmp_path / "run" / "report.md").read_text()
    assert (tmp_path / "run" / "losses.png").exists()
