"""What was built, and what building it promises."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import fractalkern as fk
from fractalkern import backends

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = Path(importlib.util.find_spec("fractalkern._C").origin)


def dynamic_symbols() -> list[str]:
    """Demangled lines of `nm -DC`; a missing nm is an error, not a skip."""
    output = subprocess.run(["nm", "-DC", LIBRARY], capture_output=True, text=True, check=True)
    return output.stdout.splitlines()


def test_no_torch_cpp_symbol_is_imported_or_exported():
    symbols = dynamic_symbols()
    assert any("aoti_torch" in line for line in symbols), "not the library that was expected"
    unstable = [line for line in symbols if re.search(r"\b(at|c10|torch)::", line)]
    assert not unstable


def test_only_the_module_entry_point_is_exported():
    defined = [
        line.split()[-1] for line in dynamic_symbols() if re.match(r"[0-9a-f]+ [^Uw] ", line)
    ]
    assert defined == ["PyInit__C"]


def test_build_info():
    info = fk.build_info()
    assert set(info) == {
        "version",
        "compiler",
        "instruction_sets",
        "supported_instruction_sets",
        "instruction_set",
        "cuda_architectures",
        "torch_built_with",
        "torch_target",
    }
    assert info["version"] == fk.__version__
    assert info["instruction_sets"][0] == "baseline"
    assert set(info["supported_instruction_sets"]) <= set(info["instruction_sets"])
    assert info["instruction_set"] in info["supported_instruction_sets"]
    assert re.fullmatch(r"2\.\d+", info["torch_target"])


def test_set_instruction_set_takes_effect(instruction_set):
    assert fk.build_info()["instruction_set"] == instruction_set


def test_set_instruction_set_refuses_an_unknown_name():
    before = fk.build_info()["instruction_set"]
    with pytest.raises(fk.InputError, match=r"name must be one of baseline.*got 'avx2'"):
        fk.set_instruction_set("avx2")
    assert fk.build_info()["instruction_set"] == before


@pytest.mark.parametrize("name", [3, None, b"baseline"])
def test_set_instruction_set_refuses_what_is_no_name(name):
    with pytest.raises(fk.InputTypeError, match=f"name must be one of baseline.*got {name!r}$"):
        fk.set_instruction_set(name)


def test_set_instruction_set_refuses_what_the_cpu_lacks():
    info = fk.build_info()
    lacking = set(info["instruction_sets"]) - set(info["supported_instruction_sets"])
    if not lacking:
        pytest.skip("this CPU has every instruction set that is compiled")
    for name in lacking:
        with pytest.raises(fk.InputError, match=f"this CPU lacks '{name}'; it supports baseline"):
            fk.set_instruction_set(name)


def test_import_prints_nothing():
    command = [sys.executable, "-W", "error", "-c", "import fractalkern"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_import_leaves_the_compiler_out():
    """It costs more than a second, at every command too."""
    code = "import sys, torch; before = set(sys.modules); import fractalkern; "
    code += "print(*(set(sys.modules) - before))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "fractalkern" in loaded.stdout.split()
    assert "torch._dynamo" not in loaded.stdout.split()


def test_submodules_are_there_without_an_import_of_their_own():
    code = "import fractalkern as fk; fk.init.genesis_, fk.regularizers.SpectralTarget; "
    code += "fk.ensemble.Ensemble, fk.scaling, fk.synthetic.circles; fk.train_swep"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "module 'fractalkern' has no attribute 'train_swep'" in result.stderr


@pytest.fixture(scope="module")
def setup_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fractalkern_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("wanted", ["yes", "", "2"])
def test_wrong_cuda_setting_is_one_sentence(setup_script, monkeypatch, wanted):
    monkeypatch.setenv("FRACTALKERN_CUDA", wanted)
    with pytest.raises(SystemExit, match=f"^FRACTALKERN_CUDA must be auto, 0 or 1, got '{wanted}'"):
        setup_script.find_nvcc()


def test_missing_nvcc_fails_when_cuda_is_required(setup_script, monkeypatch):
    monkeypatch.setenv("FRACTALKERN_CUDA", "1")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match=r"^FRACTALKERN_CUDA=1 but no nvcc is on the PATH; .*$"):
        setup_script.find_nvcc()


def test_warnings_stop_the_build_unless_asked_not_to(setup_script, monkeypatch):
    monkeypatch.delenv("FRACTALKERN_WERROR", raising=False)
    flags = setup_script.compile_flags()
    assert "-Werror" in flags
    monkeypatch.setenv("FRACTALKERN_WERROR", "0")
    assert setup_script.compile_flags() == [flag for flag in flags if flag != "-Werror"]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [("auto", "fractalkern: no nvcc on the PATH, building for the CPU only\n"), ("0", "")],
)
def test_missing_nvcc_means_a_cpu_build(setup_script, monkeypatch, capsys, wanted, said):
    monkeypatch.setenv("FRACTALKERN_CUDA", wanted)
    monkeypatch.setenv("PATH", "")
    assert setup_script.find_nvcc() is None
    assert capsys.readouterr().out == said


@pytest.mark.needs("nvcc")
def test_the_extension_is_built_where_setuptools_cannot_read_the_metadata(tmp_path):
    """Before 77 it takes a licence's name for an error, as every setuptools does a number."""
    for name in ("setup.py", "csrc/compile_flags.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    metadata = '[project]\nname = "fractalkern"\nversion = "1"\nlicense = 3\n'
    (tmp_path / "pyproject.toml").write_text(metadata)

    def status(*arguments):
        command = [sys.executable, "setup.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode

    assert status("build_ext", "--help") == 0
    assert status("--version") != 0


def test_cuda_half_is_built_where_nvcc_is():
    assert fk.build_info()["cuda_architectures"]


# Bytes of spill stores and loads that a kernel may have, by a part of its mangled name.
# Those of train_sweep lie outside the loop over rows, or in an engine for data that do not fit
# shared memory, which reads from further away anyway. power_iteration's loops over matrices keep a
# few numbers across the calls of what does the work.
ALLOWED_SPILLS = {
    "TensorCoreEngineILi16ELb1E": 24,
    "TensorCoreEngineILi32ELb1E": 132,
    "TensorCoreEngineILi32ELb0E": 124,
    "MultiplyAddEngineIdLi16ELb1E": 152,
    "MultiplyAddEngineIdLi32ELb0E": 1976,
    "MultiplyAddEngineIfLi32ELb0E": 372,
    "solve_matrices": 40,
    "solve_as": 24,
}


@pytest.mark.needs("nvcc")
def test_no_kernel_spills_registers():
    report, folder = "", ROOT / "build" / "cuda"
    kernels = {path.parent.name for path in (ROOT / "csrc").glob("*/*_cuda.cu")}
    kernels_of_cpu = {path.parent.name for path in (ROOT / "csrc").glob("*/*_cpu.cpp")}
    assert kernels == kernels_of_cpu - {"dense"}
    for kernel in sorted(kernels):
        assert backends.no_native_kernel_reason(kernel, "cuda") is None
        sources = (ROOT / "csrc" / kernel).glob("*.cu")
        logs = "".join((folder / f"{one.stem}.ptxas.txt").read_text() for one in sources)
        built_for = set(re.findall(r"Compiling entry function '\w+' for '(\w+)'", logs))
        assert built_for == {"sm_80", "sm_90"}, kernel
        report += logs
    entries = re.findall("Compiling entry function", report)
    spills = re.findall(
        r"Function properties for (\w+)\s+\d+ bytes stack frame, "
        r"(\d+) bytes spill stores, (\d+) bytes spill loads",
        report,
    )
    assert len(spills) >= len(entries)
    for name, stores, loads in spills:
        allowed = max((n for part, n in ALLOWED_SPILLS.items() if part in name), default=0)
        assert int(stores) + int(loads) <= allowed, f"{name} spills {stores} + {loads} bytes"


def included(path: Path) -> set[Path]:
    """The project's own files that `path` includes, directly or not, and itself."""
    found, queue = set(), [path]
    while queue:
        current = queue.pop()
        if current in found:
            continue
        found.add(current)
        for name in re.findall(r'#include "([^"]+)"', current.read_text()):
            queue.append(ROOT / "csrc" / name)
    return found


TORCH_FREE = sorted(
    path.relative_to(ROOT / "csrc").as_posix()
    for pattern in ("*/*.cpp", "*/*.cu", "*/*.h")
    for path in (ROOT / "csrc").glob(pattern)
    if not path.name.endswith("_op.cpp") and path.name != "torch_glue.h"
)


@pytest.mark.parametrize("name", TORCH_FREE)
def test_kernel_files_include_no_torch_header(name):
    for path in included(ROOT / "csrc" / name):
        assert not re.search(r"#include <(torch|ATen|c10)/", path.read_text()), path


def test_every_op_is_registered_and_tested_by_opcheck():
    """A kernel is complete with its reference, a fake kernel, an opcheck and a compile test."""
    for path in (ROOT / "csrc").glob("*/*_op.cpp"):
        stem = path.name.removesuffix("_op.cpp")
        assert (ROOT / "fractalkern" / "reference" / f"{stem}.py").exists(), stem
        ops = (ROOT / "fractalkern" / "ops").glob(f"*{stem}*.py")
        assert any("register_fake" in op.read_text() for op in ops), stem
        test = (ROOT / "python_tests" / f"test_{stem}.py").read_text()
        assert "opcheck(" in test, stem
        assert "fullgraph=True" in test, stem
