"""The table of a model's spectral norms, operators against explicit matrices, the command line."""

import json
import math

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.functional import conv1d, conv2d

import fractalkern as fk
from fractalkern.cli import main


def norm(matrix):
    return float(torch.linalg.matrix_norm(matrix.detach().double(), 2))


def test_every_kind_of_layer_is_named():
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(6, 4),
            "attention": nn.MultiheadAttention(8, 2),
            "recurrent": nn.LSTM(3, 5),
            "convolution": nn.Conv2d(3, 4, 3),
            "norm": nn.LayerNorm(8),
        }
    )
    table = fk.spectral_norms(model)
    rows = {row.name: row for row in table.rows}
    attention = model["attention"].in_proj_weight
    expected = {
        "linear.weight": model["linear"].weight,
        "attention.in_proj_weight[q, head 1]": attention[4:8],
        "attention.in_proj_weight[v, head 0]": attention[16:20],
        "recurrent.weight_hh_l0[g]": model["recurrent"].weight_hh_l0[10:15],
        "convolution.weight": model["convolution"].weight.flatten(1),
    }
    for name, matrix in expected.items():
        assert rows[name].sigma == pytest.approx(norm(matrix), rel=1e-4), name
        assert rows[name].lower <= norm(matrix) <= rows[name].upper, name
    assert len(rows) == 1 + (3 * 2 + 1) + 2 * 4 + 1
    assert not any(name.startswith("norm") for name in rows)


def test_projections_of_their_own_width_and_subclasses_are_split_too():
    class Memory(nn.LSTM):
        pass

    attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=4)
    rows = {row.name: row for row in fk.spectral_norms(attention).rows}
    for name in ("q", "k", "v"):
        whole = getattr(attention, f"{name}_proj_weight")
        row = rows[f"{name}_proj_weight[head 1]"]
        assert row.sigma == pytest.approx(norm(whole[4:]), rel=1e-4)
    assert len(rows) == 3 * 2 + 1
    names = [row.name for row in fk.spectral_norms(Memory(3, 5)).rows]
    assert names[0] == "weight_ih_l0[i]" and len(names) == 2 * 4


def test_a_parametrised_buffer_is_no_weight():
    layer = nn.Linear(3, 3)
    layer.register_buffer("mask", torch.ones(3, 3))
    nn.utils.parametrize.register_parametrization(layer, "mask", nn.Identity())
    assert [row.name for row in fk.spectral_norms(layer).rows] == ["weight"]


def unrolled(layer, size):
    """The matrix of a 1-D or 2-D convolution on a torus of `size` cells an axis."""
    dims = layer.weight.ndim - 2
    cells = size**dims
    identity = torch.eye(layer.in_channels * cells, dtype=torch.float64)
    inputs = identity.reshape(-1, layer.in_channels, *[size] * dims)
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    padding = [p for r in reversed(reach) for p in (0, r)]
    padded = nn.functional.pad(inputs, padding, mode="circular")
    convolve = conv1d if dims == 1 else conv2d
    outputs = convolve(
        padded, layer.weight.double(), None, layer.stride, 0, layer.dilation, layer.groups
    )
    return outputs.flatten(1).T


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(3, 4, 3),
        nn.Conv1d(4, 6, 3, stride=2),
        nn.Conv1d(4, 6, 2, dilation=3, groups=2),
        nn.Conv2d(2, 3, (3, 2)),
        nn.Conv2d(2, 2, 3, stride=2),
    ],
    ids=str,
)
def test_operator_norm_is_that_of_the_unrolled_matrix(layer):
    """On a torus of n cells the frequencies are multiples of 1/n; with stride s those of n / s."""
    size = 16 if layer.weight.ndim == 3 else 8
    grid = size // layer.stride[0]
    (row,) = fk.spectral_norms(nn.Sequential(layer), conv="operator", grid=grid).rows
    assert row.sigma == pytest.approx(norm(unrolled(layer, size)), rel=1e-9)


def test_a_transposed_convolution_has_the_norm_of_its_adjoint():
    plain = nn.Conv1d(4, 6, 3, stride=2)
    adjoint = nn.ConvTranspose1d(6, 4, 3, stride=2)
    adjoint.weight = plain.weight
    norms = [fk.spectral_norms(layer, conv="operator").rows[0].sigma for layer in (plain, adjoint)]
    assert norms[0] == norms[1]


def test_table_prints_and_saves(tmp_path):
    table = fk.spectral_norms(
        {"a": 2 * torch.eye(3), "long.name": torch.ones(4, 9), "b": torch.ones(3)}
    )
    lines = str(table).splitlines()
    assert lines[0].split() == ["weight", "kind", "shape", "sigma", "lower", "upper", "status"]
    assert len(lines) == 3
    table.save(tmp_path / "table.json")
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [row["name"] for row in rows] == ["a", "long.name"]
    assert rows[1]["sigma"] == pytest.approx(6, rel=1e-5)


def test_spectral_radius():
    matrix = torch.tensor([[0.0, 4.0], [-1.0, 0.0]])  # eigenvalues +-2i, norm 4
    assert float(fk.spectral_radius(matrix)) == pytest.approx(2)
    assert fk.spectral_radius(torch.stack([matrix, 3 * matrix])).tolist() == pytest.approx([2, 6])
    assert float(fk.spectral_radius(matrix.numpy())) == pytest.approx(2)
    symmetric = torch.diag(torch.tensor([1.0, -3.0], dtype=torch.float64)).requires_grad_()
    fk.spectral_radius(symmetric).backward()
    torch.testing.assert_close(symmetric.grad, torch.diag(torch.tensor([0.0, -1.0]).double()))


def test_spectral_radius_under_vmap():
    matrices = torch.stack([torch.eye(2), torch.full((2, 2), math.nan), 3 * torch.eye(2)])
    radii = torch.vmap(fk.spectral_radius)(matrices)
    torch.testing.assert_close(radii, torch.tensor([1.0, math.nan, 3.0]), equal_nan=True)


def broken_convolution():
    layer = nn.Conv1d(2, 2, 3)
    nn.init.constant_(layer.weight, math.nan)
    return layer


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fk.spectral_radius(torch.ones(2, 3)), r"matrix must be \[..., n, n\]"),
        (lambda: fk.spectral_radius(torch.ones(2, 2).long()), "matrix must be floating point"),
        (lambda: fk.spectral_radius(torch.full((2, 2), math.nan)), "matrix must be finite"),
        (lambda: fk.spectral_radius(torch.full((3, 2, 2), math.inf)), "matrix must be finite"),
        (lambda: fk.spectral_norms(nn.ReLU()), "model must have a weight"),
        (lambda: fk.spectral_norms(nn.Linear(2, 2), conv="fft"), "conv must be one of"),
        (lambda: fk.spectral_norms(nn.Linear(2, 2), grid=1), "grid must be an integer"),
        (lambda: fk.spectral_norms([1]), "model must be a module or a dict, got list"),
        (lambda: fk.spectral_norms({"a": [1]}), "model must hold tensors, but a is a list"),
        (lambda: fk.spectral_norms({"a": torch.eye(2)}, conv="operator"), "conv must be .matrix."),
        (
            lambda: fk.spectral_norms({"a": torch.eye(2), "b": torch.eye(2) / 0}),
            "weights must be finite, but b is not",
        ),
        (
            lambda: fk.spectral_norms(broken_convolution(), conv="operator"),
            "weights must be finite, but weight is not",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(fk.InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_command_line(tmp_path, capsys):
    tensors = {"a.weight": 3 * torch.eye(4), "a.bias": torch.ones(4), "b.weight": torch.ones(2, 8)}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    table = tmp_path / "table.json"
    for checkpoint in (tmp_path / "model.safetensors", tmp_path):
        assert main(["sigma", str(checkpoint), "--json", str(table)]) == 0
        printed = capsys.readouterr().out
        assert printed.splitlines()[1].startswith("a.weight  matrix  4 x 4")
    assert json.loads(table.read_text())[1]["sigma"] == pytest.approx(math.sqrt(16), rel=1e-5)


@pytest.mark.parametrize("name", ["absent.safetensors", "broken.safetensors", "empty"])
def test_command_line_refuses_what_is_no_checkpoint(tmp_path, capsys, name):
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    (tmp_path / "empty").mkdir()
    assert main(["sigma", str(tmp_path / name)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("fractalkern: checkpoint must be")
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize("conv", ["matrix", "operator"])
def test_a_model_without_values_is_one_sentence(conv):
    model = nn.Sequential(nn.Linear(2, 2), nn.Conv2d(3, 4, 3, device="meta"))
    with pytest.raises(fk.InputError, match=r"must have values, but 1\.weight is on"):
        fk.spectral_norms(model, conv=conv)
    with pytest.raises(fk.InputError, match="matrix must have values, but is on meta"):
        fk.spectral_radius(torch.empty(3, 3, device="meta"))


def test_a_grid_may_be_an_integer_of_any_library():
    layer = nn.Conv1d(2, 2, 3)
    tables = [fk.spectral_norms(layer, conv="operator", grid=n) for n in (8, np.int64(8))]
    assert tables[0] == tables[1]


def write_shards(folder, *names):
    """A checkpoint as transformers writes it, of which only the files `names` are there."""
    folder.mkdir()
    shards = {"a.weight": "model-00001-of-00002", "b.weight": "model-00002-of-00002"}
    shards = {name: f"{file}.safetensors" for name, file in shards.items()}
    for name in names:
        safetensors.torch.save_file({name: 2 * torch.eye(3)}, folder / shards[name])
    index = json.dumps({"metadata": {}, "weight_map": shards})
    (folder / "model.safetensors.index.json").write_text(index)
    return folder


def test_command_line_reads_the_files_of_an_index(tmp_path, capsys):
    folder = write_shards(tmp_path / "model", "a.weight", "b.weight")
    safetensors.torch.save_file({"a.weight": torch.eye(3)}, folder / "original.safetensors")
    assert main(["sigma", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:6] for line in lines[1:]] == [
        [name, "matrix", "3", "x", "3", "2"] for name in ("a.weight", "b.weight")
    ]


def test_command_line_refuses_half_a_checkpoint(tmp_path, capsys):
    missing = write_shards(tmp_path / "missing", "a.weight")
    broken = write_shards(tmp_path / "broken", "a.weight", "b.weight")
    (broken / "model.safetensors.index.json").write_text("{}")
    twice = write_shards(tmp_path / "twice", "a.weight")
    (twice / "model.safetensors.index.json").unlink()
    safetensors.torch.save_file({"a.weight": torch.eye(3)}, twice / "other.safetensors")
    for folder, message in (
        (missing, "model-00002-of-00002.safetensors: No such file"),
        (broken, "checkpoint must have a weight_map in its index"),
        (twice, "checkpoint must name each tensor once, but a.weight is in"),
    ):
        assert main(["sigma", str(folder)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert message in printed.err and len(printed.err.splitlines()) == 1


def test_command_line_says_what_it_leaves_out(tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    tensors = {"ids": torch.ones(2, 2).long(), "small": torch.ones(2, 2).to(torch.float8_e5m2)}
    safetensors.torch.save_file(tensors | {"w": torch.eye(2)}, path)
    assert main(["sigma", str(path)]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2
    assert printed.err == "left out, of another dtype: ids (int64), small (float8_e5m2)\n"
