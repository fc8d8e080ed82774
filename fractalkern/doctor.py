"""What was built, what was found, and what each missing part would need."""

import importlib.metadata
import platform

import torch

from fractalkern import _native, backends

# Package: what wants it, and the extra that installs it.
_OPTIONAL = {
    "triton": ("the Triton backend needs it", "triton"),
    "imageio-ffmpeg": ("movies as mp4 need it", "video"),
    "transformers": ("tokenizers other than the built-in one need it", "llm"),
    "scikit-learn": ("the task of handwritten digits needs it", "digits"),
    "tensorboard": ("the tracker of that name needs it", "trackers"),
    "hypothesis": ("the tests need it", "test"),
    "jax": ("the bench needs it as a peer", "bench"),
}


def report() -> str:
    """One line for each part; a missing one says what it would need."""
    info = _native.build_info()
    lines = [
        ("fractalkern", f"{info['version']}, built by {info['compiler']}"),
        (
            "torch",
            f"{torch.__version__}; built with {info['torch_built_with']}, "
            f"runs with {info['torch_target']} or later",
        ),
        ("Python", platform.python_version()),
        ("instructions", _instructions(info)),
        ("threads", f"{torch.get_num_threads()} (OMP_NUM_THREADS or torch.set_num_threads)"),
        ("CUDA kernels", _cuda_kernels(info["cuda_architectures"])),
        ("GPU", _gpu()),
        *((f"backend {name}", _backend(name)) for name in backends.BACKENDS),
        *((name, _package(name)) for name in _OPTIONAL),
    ]
    return "\n".join(f"{name:<18}{text}" for name, text in lines)


def _instructions(info: dict[str, object]) -> str:
    compiled, supported = info["instruction_sets"], info["supported_instruction_sets"]
    return (
        f"{info['instruction_set']} in use; compiled {_list(compiled)}; CPU has {_list(supported)}"
    )


def _list(names: object) -> str:
    return " ".join(map(str, names)) if isinstance(names, list) else str(names)


def _cuda_kernels(architectures: list[str]) -> str:
    if architectures:
        ops = (op for op in backends.CUDA_OPS if not op.endswith("_eager"))  # twins of others
        return f"{', '.join(ops)}; built for {' '.join(architectures)}"
    return "not built: needs nvcc on the PATH, then a reinstall with FRACTALKERN_CUDA=1"


def _gpu() -> str:
    found = str(_native.cuda_runtime_info())
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}; {found}"
    return f"not usable ({found}): needs an NVIDIA GPU with its driver and a CUDA build of torch"


def _backend(name: str) -> str:
    reason = backends.unavailable_reason(name)
    return "available" if reason is None else f"not available: {reason}"


def _package(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        need, extra = _OPTIONAL[name]
        return f"not installed: {need}, pip install 'fractalkern[{extra}]'"
