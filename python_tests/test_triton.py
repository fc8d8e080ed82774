"""The Triton backend: interpreted, compiled ahead of time, and its refusals."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fractalkern as fk
from fractalkern import backends

HERE = Path(__file__).resolve().parent
ARCHITECTURES = [80, 90]


def numbers_of(version):
    """Its first two numbers."""
    return tuple(int(part) for part in version.split(".")[:2])


@pytest.mark.needs("triton")
def test_kernels_under_the_interpreter():
    import triton

    # Before 3.7 the interpreter takes int() of an array, which NumPy deprecated and then refused.
    if numbers_of(triton.__version__) < (3, 7) and numbers_of(np.__version__) >= (2, 4):
        pytest.skip("the interpreter of triton 3.6 and older needs numpy below 2.4")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "interpreted_triton.py"]
    command += ["-W", "ignore:Conversion of an array with ndim:DeprecationWarning"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(HERE.parent)}
    result = subprocess.run(
        command, cwd=HERE, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def compiled(kernel, signature, constants, architecture):
    """The PTX of a kernel for a GPU that need not be there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    target = GPUTarget("cuda", architecture, 32)
    return triton.compile(source, target=target, options={"enable_fp_fusion": True}).asm["ptx"]


def signature_of(kernel, types, constants):
    names = kernel.arg_names
    given = {**types, **dict.fromkeys(constants, "constexpr")}
    assert set(given) == set(names)
    return {name: given[name] for name in names}, {
        (names.index(k),): v for k, v in constants.items()
    }


@pytest.mark.needs("triton")
@pytest.mark.parametrize(
    ("axes", "float64", "wide", "architecture"),
    [(2, False, False, 80), (2, False, False, 90), (5, True, True, 90)],
    ids=["2-D sm_80", "2-D sm_90", "5-D sm_90"],
)
def test_noise_compiles_ahead_of_time(axes, float64, wide, architecture):
    from fractalkern.triton import fractal_noise

    real = "fp64" if float64 else "fp32"
    types = {"law": f"*{real}", "band": "*fp64", "seed": "*i64", "factor": f"*{real}"}
    types |= {"power": "*fp64", "out": f"*{real}", "mean_square": "fp32"}
    types |= {f"length{k}": "i32" for k in range(4)} | {"last_length": "i32"}
    types |= {"modes": "i64" if wide else "i32", "tiles": "i32"}
    constants = {"AXES": axes, "SPECTRUM": 0, "PASS": fractal_noise.WRITE, "BANDED": wide}
    constants |= {"COMMON": False, "FLOAT64": float64, "WIDE": wide, "BLOCK": fractal_noise.BLOCK}
    kernel = fractal_noise._draw
    ptx = compiled(kernel, *signature_of(kernel, types, constants), architecture)
    assert f".target sm_{architecture}" in ptx
    assert float64 or ".local" not in ptx


@pytest.mark.needs("triton")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_box_count_compiles_ahead_of_time(architecture):
    from fractalkern.triton import box_count

    types = {"cells": "*u8", "boxes": "*u8"} | dict.fromkeys(["total", "inner"], "i64")
    types |= dict.fromkeys(["length", "count", "factor", "origin"], "i32")
    constants = {"CELLS": True, "ROWS": 64, "COLUMNS": 16}
    kernel = box_count._merge
    ptx = compiled(kernel, *signature_of(kernel, types, constants), architecture)
    assert f".target sm_{architecture}" in ptx

    types = {"boxes": "*u8", "counts": "*i64", "each": "i64", "blocks": "i64", "stride": "i32"}
    constants = {"CELLS": False, "MIXED": True, "BLOCK": box_count.BLOCK}
    kernel = box_count._count
    ptx = compiled(kernel, *signature_of(kernel, types, constants), architecture)
    assert "atom" in ptx or "red." in ptx


@pytest.mark.needs("triton")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("entry", "wide"), [("fp32", False), ("bf16", False), ("fp64", True)])
def test_power_iteration_compiles_ahead_of_time(entry, wide, architecture):
    from fractalkern.triton import power_iteration

    real = "*fp64" if wide else "*fp32"
    types = {"w": f"*{entry}", "v": real, "y": real, "z": real}
    types |= {"rows": "i32", "columns": "i32", "stride": "i64"}
    constants = {"WIDE": wide, "ROWS": power_iteration.ROWS, "COLUMNS": power_iteration.COLUMNS}
    kernel = power_iteration._sweep
    ptx = compiled(kernel, *signature_of(kernel, types, constants), architecture)
    assert f".target sm_{architecture}" in ptx


@pytest.mark.needs("triton")
def test_cpu_tensors_need_the_interpreter():
    with pytest.raises(fk.BackendError, match=r"^fractal_noise: .* CPU tensors need TRITON_INT"):
        fk.fractal_noise(8, 1.0, seed=0, backend="triton")


@pytest.mark.needs("triton")
def test_a_kernel_that_is_not_in_triton_says_so():
    with (
        fk.use_backend("triton"),
        pytest.raises(fk.BackendError, match=r"^box_mass: .* not written in Triton"),
    ):
        fk.box_masses(torch.ones(4, 4, dtype=torch.bool))


@pytest.mark.parametrize("version", [None, "3.3.1"])
def test_triton_absent_or_too_old_says_what_is_needed(monkeypatch, version):
    def import_module(name):
        if version is None:
            raise ImportError(f"No module named {name!r}")
        return type("Module", (), {"__version__": version})

    monkeypatch.setattr(backends.importlib, "import_module", import_module)
    found = "there is none" if version is None else "found 3.3.1"
    with pytest.raises(fk.BackendError, match=rf"needs triton 3\.4 or later .* and {found}"):
        fk.fractal_noise(8, 1.0, seed=0, backend="triton")
