"""What `fractalkern dim` makes of files that are not as they should be, and of unusual ones."""

import json

import numpy as np
import pytest
import shapes
from PIL import Image
from safetensors.numpy import save_file

from fractalkern.cli import main

DISC = shapes.disc(64).numpy()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("disc.npy", DISC)
    np.save("labels.npy", DISC.astype(np.uint16) * 7)
    np.save("nan.npy", np.where(DISC, np.nan, 1.0))
    np.save("complex.npy", DISC.astype(complex))
    np.save("words.npy", np.array([["a", "b"]]))
    np.save("small.npy", DISC[::4, ::4])
    np.save("empty.npy", np.zeros((0, 5)))
    Image.fromarray(DISC).save("disc.png")
    save_file({}, "none.safetensors")
    for name in ("zero.npy", "zero.png", "zero.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("zero.npy", "file must be readable, but zero.npy: No data left in file"),
        ("zero.png", "file must be readable, but zero.png"),
        ("zero.safetensors", "file must be readable, but zero.safetensors"),
        ("none.safetensors", "file must hold an array, but none.safetensors holds none"),
        ("words.npy", "file must hold numbers, got <U1"),
        ("disc.png --array x", "array must be left out for 'disc.png', which holds just one"),
        ("nan.npy --threshold 0", "must be finite, got 1240 NaN or infinite values"),
        ("complex.npy --threshold 0", "must be real numbers or bool, got torch.complex128"),
        ("labels.npy --label 8", "label must leave cells on both sides, got 8 for values from 0"),
        ("labels.npy --threshold 7", "threshold must leave cells on both sides, got 7 for values"),
        ("labels.npy --threshold nan", "threshold must leave cells on both sides, got nan"),
        ("small.npy", "at least 17 cells along each axis to fit 3 box sizes"),
        ("empty.npy --threshold 0", "at least 3 cells along each axis, got shape (0, 5)"),
        ("disc.npy --out dim.jpg", "out must end in .png, got 'dim.jpg'"),
        ("disc.npy --null none --out folder/no/dim.png", "out must be a place to write to, but"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(folder, capsys, words, message):
    assert main(["dim", *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (folder / "dim.png").exists()


def test_unusual_files_hold_the_same_boundary(folder):
    np.save("big_endian.npy", np.where(DISC, -1.0, 1.0).astype(">f8"))
    Image.fromarray(np.where(DISC, 40000, 30000).astype(np.uint16)).save("grey16.png")
    files = ["disc.npy", "disc.png", "big_endian.npy", "grey16.png"]
    found = []
    for file in files:
        assert main(["dim", file, "--null", "none", "--json", "dim.json"]) == 0
        found.append(json.loads((folder / "dim.json").read_text())["dimension"])
    assert found == [found[0]] * len(files)
