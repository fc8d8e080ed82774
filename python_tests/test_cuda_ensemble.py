"""Ensembles and the experiments on them on a CUDA device: the runs of the CPU, to rounding."""

import dataclasses
import json

import pytest
import torch
from torch import nn

pytest.importorskip("safetensors")
from fractalkern.ensemble import (
    SGD,
    AdamW,
    Data,
    Ensemble,
    Muon,
    SpectralPenalty,
)
from fractalkern.experiments.criticality import run as criticality
from fractalkern.experiments.criticality.config import CriticalityConfig
from fractalkern.experiments.finetune import run as finetune
from fractalkern.experiments.finetune.config import FinetuneConfig
from fractalkern.experiments.finetune.corpus import corpus
from fractalkern.experiments.finetune.training import cells, pretrain, train
from fractalkern.experiments.fractalformer import run as fractalformer
from fractalkern.experiments.fractalformer.config import FractalFormerConfig
from fractalkern.experiments.genesis import run as experiment
from fractalkern.experiments.genesis.config import GenesisConfig

pytestmark = pytest.mark.needs("cuda")
DEVICE = torch.device("cuda")
RUNS = 4


def network(run):
    layers = nn.Linear(3, 16, bias=False), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1, bias=False)
    return nn.Sequential(*layers)


def squared(model, x, y):
    return (model(x)[:, 0] - y).square().mean()


def data():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(40, 3, generator=generator)
    return Data(x, x.sum(1).sin(), batch_size=8)


def trained(device, optimizer, **options):
    made = Ensemble(network, squared, optimizer, runs=RUNS, clip_norm=1.0, device=device, **options)
    return made.fit(data(), 10)


@pytest.mark.parametrize(
    ("optimizer", "tolerance"),
    [(SGD(lr=[0.1] * RUNS, momentum=0.9), 1e-4), (AdamW(lr=0.01), 1e-4), (Muon(lr=0.01), 0.05)],
    ids=["sgd", "adamw", "muon"],
)
@pytest.mark.parametrize("width", [1, 3])
def test_runs_are_those_of_the_cpu(optimizer, tolerance, width):
    ours = trained(DEVICE, optimizer, width=width)
    expected = trained("cpu", optimizer, width=width)
    torch.testing.assert_close(ours.losses, expected.losses, rtol=tolerance, atol=tolerance)


def test_spectral_penalty():
    options = {"penalty": SpectralPenalty(RUNS, 1.0, 0.1)}
    ours = trained(DEVICE, AdamW(lr=0.01), **options)
    expected = trained("cpu", AdamW(lr=0.01), penalty=SpectralPenalty(RUNS, 1.0, 0.1))
    torch.testing.assert_close(ours.losses, expected.losses, rtol=1e-3, atol=1e-4)


def test_a_run_that_diverges_touches_no_other():
    result = trained(DEVICE, SGD(lr=[0.1, 1e30, 0.1, 0.1]), width=2)
    calm = trained(DEVICE, SGD(lr=0.1), width=2)
    assert result.finite.tolist() == [True, False, True, True]
    torch.testing.assert_close(result.losses[[0, 2, 3]], calm.losses[[0, 2, 3]])


@pytest.mark.parametrize("protocol", ["fixed", "published"])
def test_genesis_runs_on_the_device(tmp_path, protocol):
    for package in ("matplotlib", "PIL", "rich"):
        pytest.importorskip(package)
    config = GenesisConfig(
        protocol=protocol,
        arms=("genesis-all", "standard-all"),
        learning_rates=(1e-3, 2e-3),
        seeds=1,
        steps=4,
        every=2,
        batch=4,
        texts=16,
        width=8,
        layers=1,
        heads=2,
    )
    losses = {}
    for device in (DEVICE.type, "cpu"):
        out = tmp_path / device
        experiment.run(dataclasses.replace(config, device=device), out)
        rows = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
        losses[device] = torch.tensor([row["losses"] for row in rows])
    torch.testing.assert_close(losses[DEVICE.type], losses["cpu"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("study", ["baseline", "schedules", "regularizers"])
def test_criticality_runs_on_the_device(tmp_path, study):
    for package in ("matplotlib", "PIL", "rich"):
        pytest.importorskip(package)
    config = CriticalityConfig(
        study=study, samples=80, width=8, epochs=4, seeds=2, grid=64, null_draws=0, every=2
    )
    found = {}
    for device in (DEVICE.type, "cpu"):
        out = tmp_path / device
        criticality.run(dataclasses.replace(config, device=device), out)
        rows = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
        names = ("run", "step", "loss", "penalty", "sigma_1", "sensitivity", "train_nll")
        found[device] = [{name: row[name] for name in names if name in row} for row in rows]
    for ours, expected in zip(found[DEVICE.type], found["cpu"], strict=True):
        assert ours == pytest.approx(expected, rel=1e-2, abs=1e-3)


def test_finetune_without_training_does_not_change_a_probe_by_a_bit():
    config = FinetuneConfig(
        device=DEVICE.type,
        window=(-30.0, -20.0, -30.0, -20.0),
        resolution=17,
        steps=2,
        pretraining=20,
    )
    texts = corpus(config)
    found = train(config, texts, pretrain(config, texts, None), cells(config)[:64]).scalars
    assert torch.equal(found["probe_before"], found["probe_after"])


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_finetune_runs_on_the_device(tmp_path, optimizer):
    for package in ("matplotlib", "PIL", "rich"):
        pytest.importorskip(package)
    config = FinetuneConfig(
        optimizer=optimizer,
        resolution=17,
        window=(-4.0, -2.0, -4.0, -2.0),
        seeds=1,
        steps=3,
        batch=4,
        texts=16,
        width=8,
        layers=1,
        pretraining=2,
    )
    found = {}
    for device in (DEVICE.type, "cpu"):
        out = tmp_path / device
        finetune.run(dataclasses.replace(config, device=device), out)
        rows = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
        found[device] = torch.tensor([[row["last_loss"], row["probe_after"]] for row in rows])
    # Muon's iterations are in bfloat16, 2^-8 a rounding.
    torch.testing.assert_close(found[DEVICE.type], found["cpu"], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("protocol", ["fixed", "published"])
def test_fractalformer_runs_on_the_device(tmp_path, protocol):
    for package in ("matplotlib", "PIL", "rich"):
        pytest.importorskip(package)
    published = {"protocol": "published", "scaled": False} if protocol == "published" else {}
    config = FractalFormerConfig(
        **published,
        width=32,
        layers=1,
        dropout=0.0,
        context=12,
        batch=4,
        steps=4,
        every=2,
        texts=60,
        seeds=2,
    )
    found = {}
    for device in (DEVICE.type, "cpu"):
        out = tmp_path / device
        fractalformer.run(dataclasses.replace(config, device=device), out)
        rows = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
        found[device] = torch.tensor([row.get("train_2_3", row.get("train")) for row in rows])
    torch.testing.assert_close(found[DEVICE.type], found["cpu"], rtol=1e-3, atol=1e-3)
