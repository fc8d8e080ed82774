"""`python -m bench.gpu`: builds, tests and times the CUDA kernels with this machine's own torch.

Needs Python 3.11 or newer with a CUDA build of torch, numpy, pytest, hypothesis, pybind11 and
ninja, nvcc on the PATH and a GPU; no network. JAX and CuPy are peers where they are installed.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
_TESTS = [
    "python_tests/test_cuda.py",
    "python_tests/test_cuda_ensemble.py",
    "python_tests/test_box_count.py",
]
_SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
_SMALL = (
    "2-D or 3-D or line or opcheck or bits_do_not_depend or fields_repeat "
    "or any_strides or gliding or (singular_values and small)"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--sanitize", action="store_true", help="compute-sanitizer, no times")
    parser.add_argument("--no-build", action="store_true", help="take the library that is there")
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--only", default="", help="cases whose name contains this; saves nothing")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench.gpu: torch finds no CUDA device; this command needs a GPU", file=sys.stderr)
        return 1
    major, minor = torch.cuda.get_device_capability()
    if not options.no_build:
        _step("build", _build(f"{major}{minor}"))
    if options.sanitize:
        # Its own allocation for each tensor: torch's cache would hide what is beside one.
        os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
        for tool in _SANITIZERS:
            wrapper = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1"]
            _step(tool, _pytest(wrapper, _SMALL))
        return 0
    if not options.no_tests:
        _step("tests", _pytest([], ""))
    rows = _race(options.only)
    if not options.only:
        print(f"\nsaved {_save(rows).relative_to(ROOT)}")
    return 0


def _build(architecture: str) -> list[str]:
    os.environ["FRACTALKERN_CUDA"] = "1"
    os.environ.setdefault("FRACTALKERN_CUDA_ARCHS", architecture)
    return [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]


def _pytest(wrapper: list[str], only: str) -> list[str]:
    os.environ["FRACTALKERN_REQUIRE"] = "cuda"
    # Without the options of pyproject.toml: the host need not have the plug-ins they are for.
    plain = ["-m", "pytest", "-q", "-o", "addopts=", "-W", "default"]
    return [*wrapper, sys.executable, *plain, *(["-k", only] if only else []), *_TESTS]


def _step(name: str, command: list[str]) -> None:
    start = time.perf_counter()
    result = subprocess.run(command, cwd=ROOT, check=False)
    print(f"bench.gpu: {name}: {time.perf_counter() - start:.0f} s", flush=True)
    if result.returncode != 0:
        raise SystemExit(f"bench.gpu: {name} failed: {' '.join(command)}")


def _race(only: str) -> list:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Not before: the library may just have been built.
    from bench.on_gpu import (
        box_count,
        box_mass,
        ceilings,
        fractal_noise,
        power_iteration,
        rows,
        train_sweep,
    )

    found: list[rows.Row] = []
    for module in (ceilings, box_count, box_mass, train_sweep, fractal_noise, power_iteration):
        for case in module.cases():
            if case.kernel != "ceiling" and only not in f"{case.kernel}: {case.case}":
                continue
            peaks = {row.case: row.rate for row in found if row.kernel == "ceiling"}
            for row in rows.run(case, peaks):
                found.append(row)
                print(f"{row.case}, {row.contender}: {row.rate or row.missing}", flush=True)
            torch.cuda.empty_cache()
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}\n{rows.table(found)}")
    return found


def _save(found: list) -> Path:
    import fractalkern as fk
    from bench.on_gpu.rows import as_json

    name = torch.cuda.get_device_name()
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    record = {
        "device": name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": git.stdout.strip() or None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "build": fk.build_info(),
        "rows": [as_json(row) for row in found],
    }
    path = ROOT / "bench" / "results" / f"gpu-{name.lower().replace(' ', '-')}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
