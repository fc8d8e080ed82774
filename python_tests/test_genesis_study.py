"""The Genesis experiment end to end: both protocols, settings, command."""

import dataclasses
import errno
import json
import os

import pytest
import safetensors.torch
import torch
from pictures import assert_no_text_runs_off
from torch.nn.functional import cross_entropy

from fractalkern import cli
from fractalkern.errors import InputError
from fractalkern.experiments.genesis import evaluate, findings, fixed, problems, published
from fractalkern.experiments.genesis import run as experiment
from fractalkern.experiments.genesis.config import GenesisConfig, preset, shrunk
from fractalkern.experiments.genesis.model import GPT2
from fractalkern.experiments.genesis.runs import parts
from fractalkern.experiments.genesis.texts import encode, everything, longest
from fractalkern.experiments.genesis.tokenizer import tokenizer_of
from fractalkern.experiments.statistics import Comparison


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of("", everything(), 0)


def small(**changes) -> GenesisConfig:
    sizes = dict(
        seeds=2,
        steps=4,
        every=2,
        batch=4,
        texts=16,
        width=8,
        layers=1,
        heads=2,
        dropout=0.1,
        group=3,
    )
    sizes |= {"arms": ("genesis", "white", "shuffled"), "learning_rates": (1e-2,)}
    return dataclasses.replace(GenesisConfig(), **{**sizes, **changes})


def tiny_published(**changes) -> GenesisConfig:
    config = preset("published", "quick")
    sizes = dict(steps=6, every=2, texts=16, width=8, layers=1, heads=2, dropout=0.1)
    return dataclasses.replace(config, **{**sizes, **changes})


# The fixed protocol.


def test_parts_hold_every_run_once():
    config = small(learning_rates=(1e-3, 1e-2))
    runs = [run for part in parts(config) for run in part]
    assert [run.number for run in runs] == list(range(12))
    assert len({(run.arm, run.rate, run.seed) for run in runs}) == 12


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("genesis") / "fixed"
    return out, experiment.run(small(), out)


def test_fixed_study_writes_what_it_says(finished):
    out, text = finished
    assert text == (out / "report.md").read_text()
    rows = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    assert len(rows) == 6 * 2 and {"loss", "test_exact", "outside_loss"} <= rows[0].keys()
    for row in rows:  # every step's loss, and their mean
        assert len(row["losses"]) == small().every
        assert sum(row["losses"]) / len(row["losses"]) == pytest.approx(row["loss"], rel=1e-5)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["verdict"] == "not supported" and len(summary["comparisons"]["test_exact"]) == 2
    assert_no_text_runs_off((out / "study.png").read_bytes(), edge=2)
    assert "Not supported" in text and "width 8 (256)" in text
    assert {"config.toml", "environment.json"} <= {path.name for path in out.iterdir()}


def test_a_run_does_not_depend_on_its_part(finished, tokenizer):
    out, _ = finished
    rows = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    run = parts(small())[1][2]
    series, _ = fixed.train(small(), [run], tokenizer)
    mine = [row["test_loss"] for row in rows if row["run"] == run.number]
    assert series["measured"].scalars["test_loss"][0].tolist() == pytest.approx(mine, rel=1e-5)


def test_goes_on_after_an_interrupt(finished, tmp_path, monkeypatch, capsys):
    train, calls = fixed.train, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(fixed, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(small(), tmp_path / "out")
    assert "1 of 2 parts are finished and kept" in capsys.readouterr().err
    assert experiment.run(small(), tmp_path / "out") == finished[1]
    assert len(calls) == 3


def test_no_disk_left(tmp_path, monkeypatch, capsys):
    train = fixed.train

    def then_full(*arguments):
        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("fractalkern.sweeps.files.os.fsync", full)
        return train(*arguments)

    monkeypatch.setattr(fixed, "train", then_full)
    with pytest.raises(InputError, match="No space left on device"):
        experiment.run(small(), tmp_path / "out")
    monkeypatch.undo()
    assert "of 2 parts are finished" in capsys.readouterr().err
    experiment.run(small(), tmp_path / "out")


def test_refuses_a_folder_or_checkpoint_of_other_settings(finished, tmp_path, tokenizer):
    with pytest.raises(InputError, match="beta"):
        experiment.run(small(beta=1.0), finished[0])
    runs, checkpoint = parts(small())[0], tmp_path / "state"
    fixed.train(small(), runs, tokenizer, checkpoint)
    with pytest.raises(InputError, match="beta"):
        fixed.train(small(beta=1.0), runs, tokenizer, checkpoint)


def comparison(name: str, difference: float, p: float) -> Comparison:
    return Comparison(name, 5, difference, difference - 0.1, difference + 0.1, 1.0, p, p)


@pytest.mark.parametrize(
    "white, shuffled, word",
    [
        ((0.2, 0.01), (0.2, 0.02), "supported"),
        ((0.2, 0.01), (0.2, 0.2), "not supported"),
        ((-0.2, 0.01), (-0.1, 0.3), "contradicted"),
        ((-0.2, 0.01), (0.2, 0.01), "not supported"),
        ((0.0, 1.0), (0.0, 1.0), "not supported"),
    ],
)
def test_verdict_needs_both_nulls(white, shuffled, word):
    family = [comparison("genesis - white", *white), comparison("genesis - shuffled", *shuffled)]
    found = findings.Findings([], {}, family, [], [])
    assert found.verdict[0] == word
    assert findings.Findings([], {}, family[:1], [], []).verdict[0] == "untested"
    if word == "contradicted":
        assert "worse than one of white and shuffled noise" in found.verdict[1]


def test_a_run_that_diverges_is_counted(tmp_path):
    text = experiment.run(small(learning_rates=(1e-3, 1e30), clip_norm=1e30), tmp_path / "out")
    rows = [json.loads(x) for x in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]
    assert any(row["test_loss"] is None for row in rows if row["rate"] == 1e30)
    assert "2 of 4 |" in text


# The published protocol.


def test_published_writes_the_originals_files(tmp_path):
    text = experiment.run(tiny_published(), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "deep_genesis_training_results.json").read_text())
    assert list(record) == ["Standard", "Genesis"]
    for arm in record.values():
        keys = "training_losses evaluation_accuracies steps final_accuracy final_responses"
        assert list(arm) == keys.split()
        assert arm["steps"] == [2, 4, 6] and len(arm["training_losses"]) == 3
        assert [set(one) for one in arm["final_responses"]] == [
            {"prompt", "response", "answer"}
        ] * 4
        right = [
            p.answer in one["answer"]
            for p, one in zip(problems.PUBLISHED, arm["final_responses"], strict=True)
        ]
        assert arm["final_accuracy"] == sum(right) / 4
    picture = (tmp_path / "out" / "learning_dynamics.png").read_bytes()
    assert len(picture) > 50_000
    assert_no_text_runs_off(picture, edge=2)
    assert "| final accuracy | 0.50 |" in text


FOLDERS = ("deep_genesis_experiment_standard", "deep_genesis_experiment_genesis")
MODEL_FILES = {
    *("config.json", "generation_config.json", "model.safetensors"),
    *("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"),
}


@pytest.fixture(scope="module")
def published_folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("genesis") / "published"
    experiment.run(tiny_published(seeds=2, vocabulary=400), out)
    return out


def test_published_keeps_a_model_folder_an_arm_and_seed(published_folder):
    for name in FOLDERS:
        for folder in (published_folder / name, published_folder / f"{name}-1"):
            assert {path.name for path in folder.iterdir()} == MODEL_FILES
            weights = safetensors.torch.load_file(folder / "model.safetensors")
            model = GPT2(400, 256, 8, 1, 2)
            assert not any(model.load_state_dict(weights, strict=True))
            settings = json.loads((folder / "config.json").read_text())
            assert settings["vocab_size"] == 400 and settings["architectures"] == [
                "GPT2LMHeadModel"
            ]
    weights = [
        (published_folder / name / "model.safetensors").read_bytes()
        for name in (*FOLDERS, f"{FOLDERS[0]}-1")
    ]
    assert len(set(weights)) == 3
    assert not (published_folder / "checkpoints" / "00000.safetensors").exists()


def test_published_models_are_the_trained_ones(published_folder, tmp_path):
    config = tiny_published(seeds=2, vocabulary=400)
    whole = tokenizer_of("", everything(), 400)
    _, arrays, _ = published.train(config, parts(config)[0], whole)
    model = GPT2(400, 256, 8, 1, 2)
    weights = safetensors.torch.load_file(published_folder / FOLDERS[1] / "model.safetensors")
    model.load_state_dict(weights)
    parameters = {name: tensor[None] for name, tensor in weights.items()}
    prompts = published.prompts_of(whole, "cpu")
    again = published._finals(parameters, model, prompts, parts(config)[0][1:], config)
    assert torch.equal(again[0], arrays["finals"][1])


@pytest.mark.needs("transformers")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("vocabulary", [0, 400])
def test_transformers_opens_the_model_folders(tmp_path, vocabulary):
    from transformers import AutoTokenizer, GPT2LMHeadModel

    config = tiny_published(vocabulary=vocabulary)
    experiment.run(config, tmp_path / "out")
    ours = tokenizer_of("", everything(), vocabulary)
    for name in FOLDERS:
        folder = tmp_path / "out" / name
        theirs = GPT2LMHeadModel.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = GPT2(vocabulary or ours.size, 256, 8, 1, 2).eval()
        model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
        inputs = tokenizer(problems.PUBLISHED[0].prompt, return_tensors="pt")
        assert inputs["input_ids"][0].tolist() == ours.encode(problems.PUBLISHED[0].prompt)
        with torch.no_grad():
            torch.testing.assert_close(
                theirs(**inputs).logits, model(inputs["input_ids"]), rtol=0, atol=1e-5
            )
            greedy = theirs.generate(
                **inputs, max_new_tokens=3, do_sample=False, pad_token_id=ours.end
            )
        assert greedy.shape[1] <= inputs["input_ids"].shape[1] + 3
        assert theirs.config.attn_pdrop == 0.1 and theirs.config.eos_token_id == ours.end


def test_no_disk_left_for_a_model_folder_loses_no_training(tmp_path, monkeypatch, capsys):
    from fractalkern.experiments.study import folder as study_folder

    config, write = tiny_published(), study_folder.write_atomically

    def full(path, data):
        if path.parent.name == FOLDERS[1]:
            with study_folder.writing(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(study_folder, "write_atomically", full)
    with pytest.raises(InputError, match=r"model\.safetensors: No space left on device"):
        experiment.run(config, tmp_path / "out")
    assert "0 of 1 parts are finished" in capsys.readouterr().err
    monkeypatch.undo()
    kept = tmp_path / "out" / "checkpoints" / "00000.safetensors"
    assert kept.exists()  # of the trained runs: nothing is trained again
    monkeypatch.setattr("fractalkern.ensemble.training.Rules.step", None)
    experiment.run(config, tmp_path / "out")
    for name in FOLDERS:
        assert {path.name for path in (tmp_path / "out" / name).iterdir()} == MODEL_FILES
    assert not kept.exists()


def test_published_loss_restarts_with_each_epoch():
    losses = torch.arange(1.0, 13.0)[None]
    # 5 steps an epoch, logged every 4: steps 1-4, 6-8 (the 5th was of the epoch before), 11-12.
    assert published._logged(losses, [4, 8, 12], 5).tolist() == [[2.5, 7.0, 11.5]]


def test_published_counts_padding_and_substrings(tokenizer):
    assert published._is_right("9", " 19") and not published._is_right("9", " 12")
    texts = encode(problems.PUBLISHED, tokenizer, 40)
    model = GPT2(tokenizer.size, 40, width=16, layers=2, heads=4, dropout=0.0)
    logits = model(texts.tokens, texts.padding)
    by_hand = cross_entropy(logits[:, :-1].flatten(0, 1), texts.tokens[:, 1:].flatten())
    loss = evaluate.published_loss(model, texts.tokens, texts.padding, longest(tokenizer))
    torch.testing.assert_close(loss, by_hand)


# Settings and command.


def test_presets_are_the_published_numbers():
    config = preset("published", "default").checked()
    assert (config.steps, config.batch, config.every, config.vocabulary) == (50_000, 4, 50, 50_257)
    assert config.learning_rates == (5e-4, 1e-4) and not shrunk(config)
    for protocol in ("fixed", "published"):
        for size in ("quick", "default", "full"):
            assert preset(protocol, size).checked().seeds >= (5 if protocol == "fixed" else 1)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(learning_rates=()), "learning_rates must be at least one"),
        (dict(learning_rates=(1e-3, 1e-3)), "different"),
        (dict(arms=()), "arms must be at least one"),
        (dict(arms=("beta-x",)), "arms must be one of"),
        (dict(every=10), "steps must be from every = 10"),
        (dict(steps=5), "every must divide steps, 5, so that"),
        (dict(layers=10**9), "layers must be at most 1,000, got 1000000000"),
        (dict(texts=18), "multiple of 4"),
        (dict(width=9), "width must be a multiple of heads = 2"),
        (dict(seeds=0), "seeds must be at least 1"),
        (dict(dropout=1.0), "dropout must be in"),
        (dict(clip_norm=0.0), "clip_norm must be above 0"),
        (dict(vocabulary=10**11), "vocabulary must be at most 1,000,000, got 100000000000"),
        (dict(positions=16), "positions must be at least 32"),
    ],
)
def test_bad_settings(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        small(**changes).checked()


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--arms", "defalt"], "did you mean 'default'"),
        (
            ["--protocol", "published", "--learning-rates", "1e-3"],
            "learning_rates must be one for each of the 2 arms",
        ),
        (["--quick", "--learning-rates", "fast"], "fast"),
        (["--quick", "--full"], "only one of --quick and --full"),
        (["--device", "abacus"], "abacus"),
        (["--vocabulary", "10"], "vocabulary must be 0 or at least"),
    ],
)
def test_command_says_what_is_wrong_in_one_sentence(words, sentence, capsys):
    assert cli.main(["genesis", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.strip().splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_absent_device_is_a_sentence_before_a_folder_is_made(tmp_path, capsys):
    assert cli.main(["genesis", "--device", "cuda", "--out", str(tmp_path / "out")]) == 2
    assert "device must be cpu here, got cuda" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_print_config_can_be_given_back(tmp_path, capsys):
    assert cli.main(["genesis", "--quick", "--beta", "1", "--print-config"]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "own.toml").write_text(printed)
    words = ["genesis", "--config", str(tmp_path / "own.toml"), "--print-config"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out == printed and "beta = 1.0" in printed
