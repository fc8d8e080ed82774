"""`fractalkern criticality`: what is trained, what is measured, and what is said of it."""

import dataclasses
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pictures import assert_no_text_runs_off

import fractalkern as fk
from fractalkern.cli import main
from fractalkern.ensemble import Context
from fractalkern.errors import InputError
from fractalkern.experiments.criticality import boundaries, forward, model, report
from fractalkern.experiments.criticality.arms import STUDIES, Arm, all_arms, arms_of
from fractalkern.experiments.criticality.config import CriticalityConfig, preset, quick
from fractalkern.experiments.criticality.findings import Findings, Row
from fractalkern.experiments.criticality.metrics import Metrics
from fractalkern.experiments.criticality.penalty import SigmaPenalty, scheduled_target
from fractalkern.experiments.criticality.run import parts, run, train
from fractalkern.experiments.criticality.tasks import TASKS, data_sets, moons, task_named
from fractalkern.experiments.statistics import Comparison

TINY = dataclasses.replace(
    CriticalityConfig(), samples=80, width=8, epochs=4, seeds=2, grid=64, null_draws=0
)
SHARES = (0.2, 0.2)


def trained(config: CriticalityConfig):
    """Series and arrays of the first part."""
    return train(config, parts(config.checked())[0])


# --- tasks ---------------------------------------------------------------------------------------


def test_moons_are_those_of_scikit_learn():
    # make_moons(7, noise=0.15, random_state=3) of scikit-learn 1.9
    expected = [[0.64708308, -0.36197255], [1.93099368, 0.49131187], [1.81163612, -0.45622228]]
    expected += [[0.14088546, 0.32293871], [-0.05209953, 1.00994481], [0.75586221, 0.05968288]]
    expected += [[-1.24437361, -0.09584033]]
    x, y = moons(7, 0.15, np.random.RandomState(3))
    np.testing.assert_allclose(x, expected, atol=5e-9)
    assert y.tolist() == [1, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("name", [name for name in TASKS if name != "digits"])
def test_tasks_have_balanced_labels_and_depend_on_the_seed_alone(name):
    task = task_named(name)
    first, again = (data_sets(task, [0, 1], 400, 0.1, SHARES) for _ in range(2))
    x, y = first.train
    assert x.shape == (2, 240, task.dims) and y.shape == (2, 240)
    assert torch.equal(x, again.train[0]) and not torch.equal(x[0], x[1])
    assert 0.35 < y.double().mean() < 0.65
    if task.window is not None:
        low, high = torch.tensor(task.window[::2]), torch.tensor(task.window[1::2])
        assert ((x >= low) & (x <= high)).all(-1).double().mean() > 0.8


@pytest.mark.parametrize(("name", "most"), [("checkerboard", 0.6), ("xor-8", 0.6), ("moons", 0.95)])
def test_no_line_solves_a_task(name, most):
    x, y = data_sets(task_named(name), [0], 2000, 0.15, SHARES).train
    design = torch.cat([x[0], torch.ones(len(x[0]), 1)], 1).double()
    plane = torch.linalg.lstsq(design, (2.0 * y[0] - 1).double()[:, None]).solution
    assert ((design @ plane > 0)[:, 0] == (y[0] > 0)).double().mean() < most


def test_splits_are_disjoint_and_cover_the_data():
    data = data_sets(task_named("moons"), [0], 100, 0.1, SHARES)
    rows = torch.cat([data.train[0][0], data.validation[0][0], data.test[0][0]])
    assert len(rows) == 100 == len(rows.unique(dim=0))
    assert [len(part[0][0]) for part in (data.train, data.validation, data.test)] == [60, 20, 20]


def test_digits_without_scikit_learn_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match="'digits' without scikit-learn: pip install"):
        run(dataclasses.replace(TINY, task="digits"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- network, penalty ----------------------------------------------------------------------------


def test_published_network_has_its_parameters():
    network = model.network(Arm("none"), 2, 2, 64, 1)
    assert sum(p.numel() for p in network.parameters()) == 4417


@pytest.mark.parametrize(
    "arm",
    [Arm("none"), Arm("bn", batchnorm=True), Arm("sn", spectral_norm=True), Arm("d", dropout=0.5)],
    ids=lambda arm: arm.name,
)
def test_affine_layers_are_the_network_in_evaluation(arm):
    networks = [model.network(arm, 3, 2, 16, 4) for _ in range(2)]
    x = torch.randn(50, 3)
    for network in networks:
        if arm.batchnorm:
            for norm in (network.norm0, network.norm1):
                torch.nn.init.normal_(norm.weight)
                torch.nn.init.normal_(norm.bias)
        network(torch.randn(20, 3))
        network.eval()
    stacks = [
        {
            k: torch.stack([dict(getattr(n, kind)())[k].detach() for n in networks])
            for k, _ in getattr(networks[0], kind)()
        }
        for kind in ("named_parameters", "named_buffers")
    ]
    layers = model.affine_layers(*stacks, arm, 2)
    expected = torch.stack([network(x) for network in networks]).detach()
    torch.testing.assert_close(forward.logits(layers, x), expected, atol=1e-5, rtol=1e-5)
    before, again = forward.hidden(layers, x.expand(2, -1, -1))
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-5)
    if arm.spectral_norm:
        assert abs(torch.linalg.matrix_norm(layers[0][0], 2) - 1).max() < 1e-4
    exact = torch.func.vmap(torch.func.jacrev(lambda p: networks[1](p[None])[0]))(x)
    mine = forward.jacobian(layers, [z > 0 for z in before])[1]
    torch.testing.assert_close(mine, exact.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("room", [1, 2000, 2**28])
def test_logits_where_there_is_no_kernel_are_those_of_the_kernel(room, shared, monkeypatch):
    monkeypatch.setattr(forward, "_ACTIVATION_BYTES", room)
    torch.manual_seed(0)
    layers = [(torch.randn(3, m, n), torch.randn(3, m)) for m, n in ((16, 5), (16, 16), (2, 16))]
    x = torch.randn(50, 5) if shared else torch.randn(3, 50, 5)
    found, expected = forward.logits_by_products(layers, x), forward.logits(layers, x)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_penalty_has_the_gradient_of_the_exact_singular_value():
    arms = [Arm("a", (0.7,), 0.5), Arm("b", (2.0, 3.0), 0.1, output=True), Arm("none")]
    torch.manual_seed(0)
    networks = [model.network(arm, 2, 2, 8, 1).double() for arm in arms]
    names = model.weight_names(2)
    stacks = {
        n: torch.stack([dict(w.named_parameters())[n].detach() for w in networks]).requires_grad_()
        for n in names
    }
    penalty, context = SigmaPenalty(arms, 2, 10), Context(torch.arange(3), 0, {})
    for _ in range(30):  # the vectors are kept from step to step
        value = penalty(stacks, context)
    value.sum().backward()
    exact = {n: p.detach().clone().requires_grad_() for n, p in stacks.items()}
    sigma = {n: torch.linalg.matrix_norm(p, 2) for n, p in exact.items()}
    expected = 0.5 * sum((sigma[n][0] - 0.7) ** 2 for n in names[:2])
    for name, target in zip(names, (2.0, 3.0, 3.0), strict=True):
        expected = expected + 0.1 * (sigma[name][1] - target) ** 2
    expected.backward()
    assert value[2] == 0
    torch.testing.assert_close(value.sum().detach(), expected.detach().to(value.dtype))
    for name in names:
        torch.testing.assert_close(stacks[name].grad, exact[name].grad, atol=1e-6, rtol=1e-5)


def test_schedules_are_those_of_spectra():
    assert [scheduled_target("linear", t) for t in (0.0, 0.99)] == pytest.approx([2.5, 1.015])
    assert [scheduled_target("steps", t) for t in (0.33, 0.34, 0.67)] == [2.5, 1.7, 1.0]
    assert scheduled_target("exponential", 0.2) == pytest.approx(1 + 1.5 * math.exp(-1))


def test_learnable_targets_are_drawn_to_sigma():
    penalty = SigmaPenalty([Arm("l", (1.0,), 0.5, learnable=True)], 1, 10)
    stacks = {
        "linear0.weight": 3 * torch.eye(4)[None],
        "linear1.weight": torch.ones(1, 1, 4),
        "targets": torch.tensor([[1.5]], requires_grad=True),
    }
    value = penalty(stacks, Context(torch.zeros(1, dtype=torch.int64), 0, {}))
    value.sum().backward()
    assert value.item() == pytest.approx(0.5 * 1.5**2)
    assert float(stacks["targets"].grad) == pytest.approx(-2 * 0.5 * 1.5)


def test_learnable_arm_trains_its_targets():
    config = dataclasses.replace(TINY, study="schedules", arms=("learnable",), epochs=60)
    runs = {p[0].arm.name: p for p in parts(dataclasses.replace(config, rates=(0.03,)))}
    ends = {}
    for name in ("none", "learnable"):  # target-1 is trained beside none
        series, _ = train(config, runs[name])
        ends[name] = series["training"].scalars["penalty"][-2:, -1]
    assert (ends["learnable"] < ends["none"] / 2).all()


# --- what is measured ----------------------------------------------------------------------------


def test_published_penalty_leaves_the_arms_equal_to_the_last_bit():
    config = dataclasses.replace(TINY, protocol="published", epochs=6)
    series, arrays = trained(config)
    none, target = arrays["weights"].split(2)
    assert torch.equal(none, target) and not torch.equal(none[0], none[1])
    assert (series["training"].scalars["penalty"][2:] > 1e-3).all()
    assert (series["measured"].scalars["published_dead_rate"] == 0).all()


def test_fixed_penalty_changes_the_weights_and_nears_its_target():
    config = dataclasses.replace(TINY, epochs=60, rates=(0.03,), every=60)
    series, _ = trained(config)
    sigma = series["measured"].scalars["sigma_2"][:, -1]
    assert (sigma[:2] > 1.5).all() and ((sigma[2:] - 1).abs() < 0.3).all()


def test_training_is_a_plain_loop_of_torch_optim():
    config = dataclasses.replace(TINY, samples=200, epochs=20, every=20, width=16)
    series, _ = trained(config)
    data = data_sets(task_named("moons"), [0], 200, 0.15, SHARES)
    x, y = data.train[0][0], data.train[1][0].float()
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        *(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16)),
        *(torch.nn.ReLU(), torch.nn.Linear(16, 1)),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = F.binary_cross_entropy_with_logits(net(x)[:, 0], y)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert series["training"].scalars["loss"][0].tolist() == pytest.approx(losses, rel=1e-4)
    with torch.no_grad():
        right = ((net(data.test[0][0])[:, 0] > 0) == (data.test[1][0] > 0)).float().mean()
    assert abs(float(series["measured"].scalars["test_accuracy"][0, 0]) - float(right)) < 0.03


def test_gain_of_he_weights_is_critical_and_sigma_exact():
    torch.manual_seed(0)
    layers = []
    for m, n in ((400, 400), (400, 400), (1, 400)):
        layers.append((torch.randn(1, m, n) * (2 / n) ** 0.5, torch.zeros(1, m)))
    before, _ = forward.hidden(layers, torch.randn(1, 200, 400))
    active = [z > 0 for z in before]
    from fractalkern.experiments.criticality.metrics import _gains, _sigmas

    assert abs(float(_gains(layers, active)["log_gain"])) < 0.1
    exact = torch.linalg.matrix_norm(layers[1][0], 2)
    torch.testing.assert_close(_sigmas(layers)["sigma_2"], exact, rtol=0.01, atol=0)


def test_dead_units_are_those_that_never_fire():
    weights = torch.eye(4)[None]
    bias = torch.tensor([[-9.0, 0.0, 0.0, 0.0]])
    data = data_sets(task_named("moons"), [0], 50, 0.1, SHARES)
    task = dataclasses.replace(task_named("xor-4"), window=None)
    x = torch.rand(1, 30, 4)
    data = dataclasses.replace(data, train=(x, torch.zeros(1, 30, dtype=torch.int64)))
    metrics = Metrics(task, data, [0], torch.zeros(1, dtype=torch.int64), Arm("none"), 1, 64, True)
    metrics.data = dataclasses.replace(data, validation=data.train, test=data.train)

    parameters = {
        **{"linear0.weight": weights, "linear0.bias": bias},
        **{"linear1.weight": torch.ones(1, 1, 4), "linear1.bias": torch.zeros(1, 1)},
    }
    run_zero = torch.zeros(1, dtype=torch.int64)
    found = metrics(SimpleNamespace(runs=run_zero, step=1, buffers={}, parameters=parameters))
    assert float(found["dead_rate"]) == 0.25
    # f(x) = x_2 + x_3 + x_4: over random directions in four dimensions E |u . g| = |g| 0.4244.
    assert abs(float(found["sensitivity"]) / (3**0.5 * 0.4244) - 1) < 0.05


def test_batched_dimensions_are_those_of_estimate_dimension():
    torch.manual_seed(0)
    x, y = torch.meshgrid(*[torch.linspace(-2, 2, 200)] * 2, indexing="ij")
    grid = torch.stack([x + 0.3 * y, x * x + y * y - 1, (3 * x).sin() - y])
    grid = 4 * grid + 0.01 * torch.randn(grid.shape)
    published = fk.estimate_dimension  # one by one
    for one, found in zip(grid, boundaries.published_dimension(grid), strict=True):
        alone = published(one.sigmoid().double(), estimator="asisr")
        assert float(found) == pytest.approx(float(alone), abs=1e-12)
    for one, found in zip(grid, boundaries.edge_dimension(grid), strict=True):
        assert float(found) == pytest.approx(float(published(one, null=None).slope), abs=1e-12)
    assert boundaries.edge_dimension(torch.ones(1, 200, 200)).isnan().all()
    assert boundaries.last_dimension(torch.ones(200, 200), 19) is None


# --- studies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", list(STUDIES))
def test_every_study_has_both_controls_and_unique_arms(study):
    config = preset(study).checked()
    names = [arm.name for arm in all_arms(config)]
    assert names[:2] == ["none", "target-1"] and len(set(names)) == len(names)
    assert quick(config).checked().arms == ()
    if study == "layerwise":
        pairs = {tuple(arm.layer_targets(2)) for arm in all_arms(config)[1:]}
        assert len(pairs) == 25
    if study == "targets":
        assert len(names) == 1 + 7 * 3 * 2


@pytest.mark.parametrize("study", ["baseline", "regularizers", "layerwise", "targets"])
def test_a_study_ends_in_rows_intervals_and_a_verdict(study, tmp_path):
    long = ("target-0.5-lambda-0.01", "target-2-lambda-0.01", "target-1.2-lambda-0.1")
    long += ("target-0.8-lambda-0.5", "target-2.5-lambda-0.5-output")
    some = {"layerwise": ("targets-0.5-2",), "targets": long}
    arms = some.get(study, ())
    config = dataclasses.replace(TINY, study=study, arms=arms, every=2, null_draws=19)
    text = run(config, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    names = [arm.name for arm in arms_of(config)]
    assert [row["arm"] for row in summary["rows"]] == names
    for row in summary["rows"][1:]:
        comparison = row["against_none"]["test_accuracy"]
        assert comparison["low"] <= comparison["difference"] <= comparison["high"]
        assert comparison["p_holm"] >= comparison["p"]
    assert "## Verdict" in text and (tmp_path / "report.md").read_text() == text
    assert (tmp_path / "trajectories.png").exists()
    for picture in tmp_path.glob("*.png"):
        assert_no_text_runs_off(picture.read_bytes(), edge=2)
    assert (tmp_path / "differences.png").exists()
    own = {"baseline": "maps.png", "targets": "targets.png", "layerwise": "pairs.png"}
    for owner, name in own.items():
        assert (tmp_path / name).exists() == (study == owner)
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert len(lines) == len(names) * 2 * (4 + 2)


def test_tasks_are_compared_within_their_setting(tmp_path):
    config = dataclasses.replace(
        TINY, study="tasks", tasks=("circles", "xor-4"), depths=(1, 3), widths=(4,), every=4
    )
    run(config.checked(), tmp_path)
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    settings = [row["setting"] for row in rows if row["arm"] == "none"]
    expected = [f"{t}-{size}" for t in ("circles", "xor-4") for size in ("1x8", "3x8", "2x4")]
    assert settings == expected
    has_edges = {row["setting"]: "edge_dimension" in row["mean"] for row in rows}
    assert has_edges == {name: name.startswith("circles") for name in expected}


def test_rate_of_least_validation_loss_is_taken(tmp_path):
    config = dataclasses.replace(TINY, rates=(1e-9, 3e-2), epochs=30, every=30)
    run(config, tmp_path)
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert [row["rate"] for row in rows] == [3e-2, 3e-2]


def test_diverged_runs_are_counted_and_left_out(tmp_path):
    config = dataclasses.replace(TINY, rates=(1e30,), epochs=6, every=3)
    text = run(config, tmp_path)
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert [row["frozen"] for row in rows] == [2, 2]
    assert "too few finite runs" in text


def compared(name: str, difference: float) -> Comparison:
    """A significant one."""
    return Comparison(name, 10, difference, difference, difference, 1.0, 1e-4, 1e-3)


@pytest.mark.parametrize(("nll", "helps"), [(-0.1, True), (0.1, False)])
def test_what_gains_accuracy_and_loses_likelihood_is_no_help(nll, helps):
    outcomes = {"test_accuracy": compared("a", 0.02), "test_nll": compared("n", nll)}
    row = Row("xor-32-2x64", "target-1", 0.01, {}, {}, outcomes)
    found = Findings([row], [100], None, {}, {})
    said = " ".join(report.verdict(CriticalityConfig(), found))
    assert "after the correction: target-1" in said
    assert ("costs nothing in the other here: target-1" in said) == helps
    assert ("worse: target-1" in said) != helps


def test_a_diverged_run_does_not_end_the_boundaries_of_the_others(tmp_path):
    config = dataclasses.replace(TINY, rates=(1e30,), epochs=6, every=6, null_draws=19)
    assert "no boundary to fit" in run(config, tmp_path)


@pytest.mark.parametrize("study", ["baseline", "regularizers"])
def test_an_update_that_overflows_is_a_diverged_run(study, tmp_path):
    arms = ("spectral-norm",) if study == "regularizers" else ()
    config = dataclasses.replace(TINY, study=study, arms=arms, rates=(1e38,), epochs=2, every=1)
    run(config, tmp_path)
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert [row["frozen"] for row in rows] == [2] * len(rows)


def test_goes_on_after_an_interrupt_with_the_same_bits(tmp_path, monkeypatch, capsys):
    config = dataclasses.replace(TINY, study="regularizers", arms=("batchnorm", "dropout-0.1"))
    run(config, tmp_path / "whole")
    from fractalkern.experiments.criticality import run as module

    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(module, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "stopped")
    assert "1 of 3 parts are finished and kept" in capsys.readouterr().err
    run(config, tmp_path / "stopped")
    assert len(calls) == 4  # the interrupted part again, and the last one
    whole, stopped = ((tmp_path / n / "runs.jsonl").read_bytes() for n in ("whole", "stopped"))
    assert whole == stopped


# --- command line --------------------------------------------------------------------------------


def refused(capsys, *words) -> str:
    assert main(["criticality", *words]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_mistakes_are_sentences(capsys, tmp_path):
    assert "did you mean 'moons'" in refused(capsys, "--task", "mons")
    assert "did you mean 'dropout-0.3'" in refused(
        capsys, "--study", "regularizers", "--arms", "dropout-0.2"
    )
    assert "rates must be one or more positive" in refused(capsys, "--rates", "-1.0")
    assert "rates must be a single one for the published" in refused(
        capsys, "--protocol", "published", "--rates", "0.1", "0.2"
    )
    assert "depth must be 2, a target of arm" in refused(
        capsys, "--study", "layerwise", "--depth", "3"
    )
    assert "seeds must be at least 2" in refused(capsys, "--seeds", "1")
    assert "seeds must be at most 10,000" in refused(capsys, "--seeds", "4000000000")
    assert "every must divide epochs, 35, so that" in refused(
        capsys, "--epochs", "35", "--every", "10"
    )
    (tmp_path / "file").write_text("")
    assert "out must be a folder" in refused(capsys, "--out", str(tmp_path / "file"))


def test_the_device_is_a_setting(capsys):
    assert main(["criticality", "--print-config"]) == 0
    assert 'device = "cpu"\n' in capsys.readouterr().out
    assert "'abacus' for argument '--device'" in refused(capsys, "--device", "abacus")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_absent_device_is_a_sentence_before_a_folder_is_made(tmp_path, capsys):
    message = refused(capsys, "--device", "cuda", "--out", str(tmp_path / "out"))
    assert "device must be cpu here, got cuda" in message
    assert not (tmp_path / "out").exists()


def test_checkpoint_of_another_config_is_a_sentence(capsys, tmp_path):
    run(TINY, tmp_path)
    capsys.readouterr()
    config = ["--config", str(tmp_path / "config.toml"), "--out", str(tmp_path)]
    assert "epochs: 4 -> 5" in refused(capsys, *config, "--epochs", "5")


def test_print_config_is_what_a_run_starts_from(capsys, tmp_path):
    assert main(["criticality", "--study", "targets", "--quick", "--print-config"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "c.toml").write_text(text)
    assert main(["criticality", "--config", str(tmp_path / "c.toml"), "--print-config"]) == 0
    assert capsys.readouterr().out == text and "seeds = 3" in text


def test_command_lists_arms_and_writes_its_folder(tmp_path):
    command = [sys.executable, "-m", "fractalkern", "criticality"]
    listed = subprocess.run([*command, "--list-arms"], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == ["none", "target-1"]
    small = [
        "--samples",
        "80",
        "--width",
        "8",
        "--epochs",
        "4",
        "--seeds",
        "2",
        "--null-draws",
        "0",
    ]
    done = subprocess.run(
        [*command, *small, "--out", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("# Spectral criticality: baseline, protocol fixed")
    names = {entry.name for entry in tmp_path.iterdir()}
    assert {"config.toml", "environment.json", "runs.jsonl", "summary.json", "report.md"} <= names
