"""`python -m bench.gpu`: builds, tests and times the CUDA kernels with this machine's own torch.

Needs Python 3.11 or newer with a CUDA build of torch, numpy, pytest, hypothesis, pybind11 and
ninja, nvcc on the PATH and a GPU; no network. JAX and CuPy are peers where they are installed. A
test or a contender that fails or hangs is named and stops no other; every contender is checked
before it is timed. The results are written after each kernel.
"""

import argparse
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from bench.on_gpu.fresh_context import FINISHED

ROOT = Path(__file__).resolve().parents[1]
_TESTS = ["python_tests/test_cuda.py", "python_tests/test_cuda_ensemble.py"]
_SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
_SMALL = (
    "2-D or 3-D or line- or opcheck or bits_do_not_depend or fields_repeat "
    "or any_strides or gliding or masses or penalties or (singular_values and small) "
    "or adam_steps or dropout_masks"
)
_KERNELS = (
    "ceilings",
    "box_count",
    "box_mass",
    "train_sweep",
    "fractal_noise",
    "power_iteration",
    "adam",
    "dropout_mask",
)
_SCRATCH = ROOT / "build" / "gpu"
# Seconds until a step is ended.
_BUILD, _TESTING, _SANITIZING, _RACE = 600, 600, 3600, 600


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--sanitize", action="store_true", help="compute-sanitizer, no times")
    parser.add_argument("--no-build", action="store_true", help="take the library that is there")
    parser.add_argument("--no-tests", action="store_true", help="only the races")
    parser.add_argument("--only", default="", help="cases whose name contains this; saves nothing")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="after these no peer is begun"
    )
    options = parser.parse_args()
    peers_until = time.time() + 60 * options.minutes
    if not torch.cuda.is_available():
        print("bench.gpu: torch finds no CUDA device; this command needs a GPU", file=sys.stderr)
        return 1
    if options.sanitize and shutil.which("compute-sanitizer") is None:
        print("bench.gpu: --sanitize needs compute-sanitizer on the PATH", file=sys.stderr)
        return 1
    major, minor = torch.cuda.get_device_capability()
    if not options.no_build and _step("build", _build(f"{major}{minor}"), _BUILD) != 0:
        return 1
    failed = []
    if options.sanitize:
        # Its own allocation for each tensor: torch's cache would hide what is beside one.
        os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
        for tool in _SANITIZERS:
            wrapper = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1"]
            if not _test(tool, wrapper, _SMALL, seconds_of_a_test=600, seconds=_SANITIZING):
                failed.append(tool)
    else:
        tests = "not run"
        if not options.no_tests:
            passed = _test("tests", [], "", seconds_of_a_test=180, seconds=_TESTING)
            tests = "passed" if passed else "failed"
            failed += [] if passed else ["tests"]
        failed += _race(options.only, peers_until, tests)
    if failed:
        print(f"bench.gpu: failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def _build(architecture: str) -> list[str]:
    os.environ["FRACTALKERN_CUDA"] = "1"
    os.environ["FRACTALKERN_WERROR"] = "0"
    os.environ.setdefault("FRACTALKERN_CUDA_ARCHS", architecture)
    return [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]


def _step(name: str, command: list[str], seconds: float) -> int | None:
    """The exit status; None if the command was ended after `seconds`, with all that it started."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, process_group=0)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        print(f"bench.gpu: {name}: ended after {seconds:.0f} s", file=sys.stderr)
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        print(f"bench.gpu: {name}: {time.perf_counter() - start:.0f} s", flush=True)


def _test(
    name: str, wrapper: list[str], only: str, seconds_of_a_test: float, seconds: float
) -> bool:
    """Whether all tests passed. Behind a test that ended its process a new process goes on."""
    begun = _SCRATCH / "tests_begun.txt"
    begun.parent.mkdir(parents=True, exist_ok=True)
    begun.write_text("")
    os.environ["FRACTALKERN_REQUIRE"] = "cuda"
    os.environ["FRACTALKERN_TESTS_BEGUN"] = str(begun)
    os.environ["FRACTALKERN_SECONDS_OF_A_TEST"] = str(seconds_of_a_test)
    # Without the options of pyproject.toml: the host need not have the plug-ins they are for.
    plain = ["-m", "pytest", "-q", "--tb=short", "-o", "addopts=", "-W", "default"]
    printing = ["-p", "bench.on_gpu.fresh_context", "--no-summary"]
    going_on = "--continue-on-collection-errors"
    chosen = [*(["-k", only] if only else []), *_TESTS]
    passed, end = True, time.monotonic() + seconds
    while True:
        before = begun.read_text().splitlines()
        command = [*wrapper, sys.executable, *plain, *printing, going_on, *chosen]
        passed &= _step(name, command, max(end - time.monotonic(), 0)) == 0
        now = begun.read_text().splitlines()
        if now[-1:] == [FINISHED] or now == before or time.monotonic() > end:
            return passed and now[-1:] == [FINISHED]


def _race(only: str, peers_until: float, tests: str) -> list[str]:
    """The kernels of which something failed."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Not before: the library may just have been built.
    from bench.on_gpu import rows

    path = _SCRATCH / "rows.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    failed = []
    for kernel in _KERNELS:
        options = ["--only", only, "--peers-until", str(peers_until)]
        command = [sys.executable, "-m", "bench.on_gpu", kernel, str(path), *options]
        if _step(kernel, command, _RACE) != 0:
            failed.append(kernel)
        if not only:
            saved = _save(rows.read(path), tests, failed)
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(rows.table(rows.read(path)))
    if not only:
        print(f"\nsaved {saved.relative_to(ROOT)}")
    return failed


def _commit() -> str | None:
    """None outside a repository."""
    try:
        command = ["git", "describe", "--always", "--dirty"]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return said.stdout.strip() or None


def _save(found: list, tests: str, failed: list[str]) -> Path:
    import fractalkern as fk
    from bench.on_gpu.rows import as_json

    name = torch.cuda.get_device_name()
    record = {
        "device": name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "build": fk.build_info(),
        "tests": tests,
        "failed": failed,
        "rows": [as_json(row) for row in found],
    }
    path = ROOT / "bench" / "results" / f"gpu-{name.lower().replace(' ', '-')}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
