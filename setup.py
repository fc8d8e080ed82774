"""Builds `fractalkern._C`. Metadata lives in pyproject.toml.

FRACTALKERN_CUDA=auto|0|1   auto (default): the CUDA half where nvcc is found; 1: fail without it.
FRACTALKERN_CUDA_ARCHS      comma-separated, default "80,90"; PTX of the newest is added.
FRACTALKERN_SANITIZE=1      address and undefined-behaviour sanitizers.
FRACTALKERN_WERROR=0        warnings, of a compiler not seen before, do not stop the build.

`.cu` files hold no torch header and are compiled by nvcc directly, so no CUDA torch is needed to
build them and one build serves CPU and CUDA torch alike.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
import torch
from setuptools import Distribution, Extension, setup
from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths

ROOT = Path(__file__).resolve().parent
CUDA_BUILD = ROOT / "build" / "cuda"
TORCH_TARGET = "2.11"


def warnings_are_errors() -> bool:
    return os.environ.get("FRACTALKERN_WERROR") != "0"


def compile_flags() -> list[str]:
    """Shared with the Makefile's C++ tests.

    -Wno-psabi: vectors wider than the baseline's registers never cross a function boundary here.
    -ffp-contract=fast: one rounding per multiply-add where the CPU has it. No trap or errno is ever
    read.
    """
    flags = (ROOT / "csrc" / "compile_flags.txt").read_text().split()
    return [flag for flag in flags if flag != "-Werror" or warnings_are_errors()]


def project_version() -> str:
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"]["version"]


def find_nvcc() -> Path | None:
    """The toolkit's own nvcc: the one on the PATH may be a wrapper script in another folder."""
    wanted = os.environ.get("FRACTALKERN_CUDA", "auto")
    if wanted not in {"auto", "0", "1"}:
        raise SystemExit(f"FRACTALKERN_CUDA must be auto, 0 or 1, got {wanted!r}")
    if wanted == "0":
        return None
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        if wanted == "1":
            raise SystemExit(
                "FRACTALKERN_CUDA=1 but no nvcc is on the PATH; install the CUDA toolkit"
            )
        print("fractalkern: no nvcc on the PATH, building for the CPU only")
        return None
    dry_run = subprocess.run(
        [nvcc, "--dryrun", "-c", "-x", "cu", os.devnull, "-o", os.devnull],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in dry_run.stderr.splitlines():
        if line.startswith("#$ TOP="):
            return Path(line.removeprefix("#$ TOP=").strip()).resolve() / "bin" / "nvcc"
    return Path(nvcc).resolve()


def compile_cuda(nvcc: Path) -> tuple[list[str], list[str]]:
    """Object files of all .cu sources, and the names of the architectures in them.

    A source is compiled again when it, a header that it includes or the command has changed. Beside
    each object stands what ptxas said of its kernels' registers and spills; a test reads it.
    """
    numbers = os.environ.get("FRACTALKERN_CUDA_ARCHS", "80,90").split(",")
    architectures = [f"sm_{n}" for n in numbers] + [f"compute_{numbers[-1]}"]
    gencode = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in numbers]
    gencode.append(f"-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}")
    flags = [
        *["-O3", "-std=c++20"],
        *(["-Werror", "all-warnings"] if warnings_are_errors() else []),
        *["-Xptxas", "-v", *gencode],
        *["-Xcompiler", "-fPIC,-fvisibility=hidden", f"-I{ROOT / 'csrc'}"],
        f'-DFRACTALKERN_CUDA_ARCHITECTURES="{",".join(architectures)}"',
    ]
    CUDA_BUILD.mkdir(parents=True, exist_ok=True)

    def newest(dependencies: Path) -> float:
        _, _, files = dependencies.read_text().partition(":")
        paths = [Path(name) for name in files.replace("\\\n", " ").split()]
        return max((p.stat().st_mtime if p.exists() else float("inf")) for p in paths)

    def compile_one(source: Path) -> str:
        target = CUDA_BUILD / f"{source.stem}.o"
        log, stamp = target.with_suffix(".ptxas.txt"), target.with_suffix(".command.txt")
        included = target.with_suffix(".d")
        parts = [nvcc, *flags, "-MMD", "-MF", included, "-c", source, "-o", target]
        command = [str(part) for part in parts]
        if (
            stamp.exists()
            and stamp.read_text() == "\n".join(command)
            and target.stat().st_mtime > newest(included)
        ):
            return str(target)
        stamp.unlink(missing_ok=True)
        result = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if result.returncode != 0:
            raise SystemExit(f"{result.stderr}\nfractalkern: nvcc could not compile {source}")
        log.write_text(result.stderr)
        stamp.write_text("\n".join(command))
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sorted(ROOT.glob("csrc/*/*.cu")))), architectures


class Build(BuildExtension):
    """torch's ninja build, preceded by nvcc where it is wanted and found."""

    def build_extensions(self) -> None:
        nvcc = find_nvcc()
        if nvcc is not None:
            extension = self.extensions[0]
            objects, architectures = compile_cuda(nvcc)
            extension.extra_objects += objects
            extension.define_macros.append(
                ("FRACTALKERN_CUDA_ARCHITECTURES", f'"{",".join(architectures)}"')
            )
            toolkit = nvcc.parents[1]
            folders = [toolkit / "lib64", toolkit / "lib", *toolkit.glob("targets/*/lib")]
            extension.library_dirs += [str(folder) for folder in folders]
            extension.libraries += ["cudart_static", "rt", "dl", "pthread"]
        super().build_extensions()


class WithoutMetadata(Distribution):
    """Leaves pyproject.toml unread, whose licence setuptools before 77 takes for an error.

    `build_ext` needs nothing of it, and a host without a network has the setuptools that it has.
    """

    def parse_config_files(
        self, filenames: list[str] | None = None, ignore_option_errors: bool = False
    ) -> None:
        super().parse_config_files(filenames or self.find_config_files(), ignore_option_errors)


def compiler_name() -> str:
    command = os.environ.get("CXX", "c++")
    output = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    return output.stdout.splitlines()[0]


def extension() -> Extension:
    major, minor = (int(part) for part in TORCH_TARGET.split("."))
    sanitize = (
        ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g"]
        if os.environ.get("FRACTALKERN_SANITIZE") == "1"
        else []
    )
    # pybind11's own first: torch ships a copy that refuses to be included beside the stable ABI.
    system_includes = [pybind11.get_include(), *include_paths()]
    return Extension(
        "fractalkern._C",
        sources=sorted(
            str(path.relative_to(ROOT))
            for path in ROOT.glob("csrc/**/*.cpp")
            if "tests" not in path.parts
        ),
        depends=sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*.h")),
        include_dirs=[str(ROOT / "csrc")],
        define_macros=[
            ("TORCH_TARGET_VERSION", f"0x{major:02x}{minor:02x}000000000000"),
            ("FRACTALKERN_TORCH_TARGET", f'"{TORCH_TARGET}"'),
            ("FRACTALKERN_TORCH_VERSION", f'"{torch.__version__}"'),
            ("FRACTALKERN_VERSION", f'"{project_version()}"'),
            ("FRACTALKERN_COMPILER", f'"{compiler_name()}"'),
        ],
        extra_compile_args=[
            *["-O3", "-g0", "-fvisibility=hidden", *compile_flags()],
            *[f"-isystem{path}" for path in system_includes],
            *sanitize,
        ],
        # Weak symbols of torch's header-only classes must not leave the library: a second torch
        # version in the process would otherwise bind to them.
        extra_link_args=[
            f"-Wl,--version-script={ROOT / 'csrc' / 'exports.map'}",
            "-Wl,--as-needed",
            *sanitize,
        ],
        library_dirs=library_paths(),
        libraries=["torch_cpu"],
        language="c++",
    )


if __name__ == "__main__":
    setup(
        ext_modules=[extension()],
        cmdclass={"build_ext": Build},
        distclass=WithoutMetadata if "build_ext" in sys.argv else Distribution,
    )
