import importlib.metadata
import os
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from fractalkern import BackendError, cli
from fractalkern.cli import VERBS, main

ROOT = Path(__file__).resolve().parents[1]
TINY = ["trainability", "--width", "4", "--steps", "20", "--resolution", "20"]


def refused(capsys, arguments):
    """The one sentence that a refused command prints."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("fractalkern: ")
    return line


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--steps 0", "steps must be at least 1, got 0"),
        ("--resolution 0", "resolution must be at least 17"),
        ("--resolution 10000000", "must fit in memory"),
        ("--width 0", "width must be at least 1, got 0"),
        ("--seed -1", "seed must be an integer from 0"),
        ("--window 6 -3 -3 6", "window must have LO0 < HI0, got 6.0 and -3.0"),
        ("--window -3 6 1 1", "window must have LO1 < HI1, got 1.0 and 1.0"),
        ("--window -3 nan -3 6", "window must have LO0 < HI0, got -3.0 and nan"),
        ("--window -3 6 -3 inf", "window must lie within"),
        ("--config absent.toml", "config must be a readable file, but absent.toml"),
        ("--out /proc/fractalkern/run", "out must be a place to write to"),
        ("--out {file}", "is a file"),
        ("--out {file}/below", "out must be a place to write to"),
        ("--out {other}", "holds other files (notes.txt)"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(capsys, tmp_path, options, named):
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    options = options.format(file=tmp_path / "file", other=tmp_path / "other")
    arguments = [*TINY, "--out", str(tmp_path / "run"), *options.split()]
    assert named in refused(capsys, arguments)
    assert not (tmp_path / "run").exists()


def test_changed_settings_are_refused_with_the_difference(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("fractalkern.experiments.trainability.run._report", lambda *_: "done")
    command = [*TINY, "--out", str(tmp_path / "run")]
    assert main(command) == 0
    capsys.readouterr()
    line = refused(capsys, [*command, "--seed", "5", "--condition", "relu"])
    assert '(condition: "tanh" -> "relu", seed: 0 -> 5)' in line
    assert main(command) == 0


def test_unknown_verb_is_one_sentence(capsys):
    line = refused(capsys, ["trian"])
    assert f"verb must be one of {', '.join(VERBS)}, got 'trian'" in line
    assert "trainability, zoom, animate, table, criticality, genesis" in line


def test_absent_backend_is_one_sentence(capsys, monkeypatch):
    def fail(_):
        raise BackendError("backend 'triton' is not available: no GPU")

    monkeypatch.setitem(VERBS, "doctor", cli.Verb("", fail))
    assert refused(capsys, ["doctor"]).endswith("no GPU")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--steps many", "--steps: invalid literal for int() with base 10: 'many'"),
        ("--steps 2.5", "--steps: invalid literal for int()"),
        ("--condition sine", "'sine' for argument '--condition'. Expected one of ('tanh', 'relu',"),
        ("--dtype float16", "'float16' for argument '--dtype'. Expected one of ('float64',"),
        ("--window 1 2", "'--window'. Expected 4 values"),
        ("--nonsense", "Unrecognized options: --nonsense"),
        ("--config", "'--config'. Expected 1 values"),
        ("word", "Unrecognized options: word"),
    ],
)
def test_usage_error_is_one_sentence_and_exit_2(capsys, options, named):
    line = refused(capsys, ["trainability", *options.split()])
    assert named in line
    assert line.endswith("(trainability --help says more)")
    assert "│" not in line


def test_usage_error_on_a_terminal_is_as_plain(tmp_path):
    code = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    command = [sys.executable, "-m", "fractalkern", "trainability", "--steps", "many"]
    result = subprocess.run(
        [sys.executable, "-c", code, *command],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"TERM": "xterm-256color"},
    )
    assert result.returncode == 2
    assert result.stdout.strip() == (
        "fractalkern: Error parsing --steps: invalid literal for int() with base 10: 'many' "
        "(trainability --help says more)"
    )


@pytest.mark.parametrize("arguments", [[], ["--help"], *([verb, "--help"] for verb in VERBS)])
def test_help(capsys, arguments):
    try:
        assert main(arguments) == 0
    except SystemExit as exit_:
        assert exit_.code == 0
    text = capsys.readouterr().out
    assert "usage: fractalkern" in text
    assert "noqa" not in text  # tyro takes a comment for help where there is no docstring


@pytest.mark.parametrize("arguments", ["--help", "zoom --help", "doctor"])
def test_a_reader_that_has_had_enough_is_no_error(arguments):
    command = [sys.executable, "-m", "fractalkern", *arguments.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def interrupted_at_the_import_of_torch(tmp_path, *arguments):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise KeyboardInterrupt\n")
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )


@pytest.mark.parametrize("option", ["--help", "--version", "doctor"])
@pytest.mark.parametrize("way", [["-m", "fractalkern"], ["-mfractalkern"], ["{script}"]], ids=str)
def test_interrupt_while_torch_is_imported_is_one_line(tmp_path, way, option):
    script = tmp_path / "fractalkern"  # as pip writes it
    script.write_text("import sys\nfrom fractalkern.cli import main\nsys.exit(main())\n")
    words = [word.format(script=script) for word in way]
    result = interrupted_at_the_import_of_torch(tmp_path, *words, option)
    assert (result.returncode, result.stdout) == (130, "")
    assert result.stderr == "fractalkern: stopped\n"


def test_a_program_that_imports_the_package_is_interrupted_as_ever(tmp_path):
    result = interrupted_at_the_import_of_torch(tmp_path, "-c", "import fractalkern")
    assert result.stderr.startswith("Traceback") and "stopped" not in result.stderr
    assert result.returncode != 0


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fractalkern 0.")


def printed_config(capsys, *options):
    assert main(["trainability", *options, "--print-config"]) == 0
    return capsys.readouterr().out


def test_printed_config_round_trips(capsys, tmp_path):
    options = [
        "--condition",
        "tanh-minibatch",
        "--window",
        "-5.5",
        "1e-3",
        "0",
        "2",
        "--dtype",
        "float32",
        "--seed",
        "7",
    ]
    text = printed_config(capsys, *options)
    path = tmp_path / "config.toml"
    path.write_text(text)
    assert printed_config(capsys, "--config", str(path)) == text
    assert "seed = 8\n" in printed_config(capsys, "--config", str(path), "--seed", "8")


def test_layers_are_defaults_quick_file_options(capsys, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("resolution = 99\nsteps = 77\n")
    assert "steps = 500\n" in printed_config(capsys)
    quick = printed_config(capsys, "--quick")
    assert "steps = 100\n" in quick
    assert "resolution = 64\n" in quick
    text = printed_config(capsys, "--quick", "--config", str(path), "--steps", "3")
    assert "steps = 3\n" in text
    assert "resolution = 99\n" in text


def test_default_folder_is_named_after_the_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["trainability", "--quick", "--width", "2", "--resolution", "20"]) == 0
    assert "runs/trainability-tanh-quick/fractal.png" in capsys.readouterr().out
    assert (tmp_path / "runs" / "trainability-tanh-quick" / "summary.json").exists()


def test_doctor_names_every_part(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for part in ("fractalkern", "torch", "instructions", "threads", "CUDA kernels", "GPU"):
        assert f"\n{part} " in f"\n{printed}"
    assert all("needs" in line for line in printed.splitlines() if "not built" in line)


def test_doctor_knows_a_package_of_every_extra(capsys, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for extra in project["optional-dependencies"].keys() - {"lint"}:  # make lint installs those
        assert f"pip install 'fractalkern[{extra}]'" in printed


def test_interrupt_keeps_tiles_says_how_to_go_on_and_exits_130(tmp_path, capsys, monkeypatch):
    out = tmp_path / "a run"
    options = ["--width", "8", "--steps", "300", "--resolution", "160", "--tile-rows", "1"]
    command = [sys.executable, "-m", "fractalkern", "trainability", *options, "--out", str(out)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    # A record follows its file: with four files there, at least three tiles are kept.
    while not (out / "tiles" / "00003.safetensors").exists():
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGINT)
    printed, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert printed == ""
    assert "Traceback" not in errors
    assert "tiles are finished and kept" in errors

    (resume,) = [line for line in errors.splitlines() if "To go on: " in line]
    arguments = shlex.split(resume.split("To go on: ")[1])
    assert arguments[0] == "fractalkern"
    kept = int(resume.split("Interrupted: ")[1].split()[0])
    assert 3 <= kept < 160
    monkeypatch.setattr("fractalkern.experiments.trainability.run._report", lambda *_: "done")
    assert main(arguments[1:]) == 0
    assert f"trainability tanh: {kept * 160:,} of 25,600 cells" in capsys.readouterr().err
