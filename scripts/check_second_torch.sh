#!/usr/bin/env bash
# Imports the library as it was built, not rebuilt, under another torch and runs its ops there.
#
#   scripts/check_second_torch.sh [TORCH]     default torch==2.14.1
#
# Needs the network and, for a version whose wheel carries CUDA, about 15 GB under TMPDIR;
# everything is removed afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=${1:-torch==2.14.1}
python=${PYTHON:-.venv/bin/python}
"$python" -c "import fractalkern" ||
  { echo "check_second_torch: no built package for $python; run 'make install' first" >&2; exit 1; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -R fractalkern "$folder/"
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-cache-dir "$wanted" numpy safetensors tyro rich \
  matplotlib Pillow

cd "$folder" # not the checkout: the copy is what gets imported
printed=$(venv/bin/python -c "import fractalkern" 2>&1) && test -z "$printed" ||
  { echo "check_second_torch: the import printed: $printed" >&2; exit 1; }
venv/bin/python - "$folder" << 'PYTHON'
import sys
from pathlib import Path

import torch

import fractalkern as fk

assert Path(fk.__file__).is_relative_to(sys.argv[1]), fk.__file__
built_with = fk.build_info()["torch_built_with"]
assert built_with != torch.__version__, f"both are torch {built_with}"
architectures = fk.build_info()["cuda_architectures"]
assert architectures, "the library was built without CUDA; put nvcc on the PATH and reinstall"
has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
assert has_kernel("fractalkern::box_count", "CUDA"), "no CUDA kernel is registered"

generator = torch.Generator().manual_seed(0)
mask = torch.rand(3, 65, 130, generator=generator) < 0.05
for options in ({}, {"rule": "mixed", "offsets": 3}, {"sizes": [1, 5, 24], "border": "crop"}):
    native, reference = (
        fk.box_count(mask, spatial_dims=2, backend=backend, **options).counts
        for backend in ("native", "reference")
    )
    assert torch.equal(native, reference), options

shapes = ((20, 4), (20, 1), (4, 8), (8, 1))
data = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
rates = torch.logspace(-3, -0.5, 33, dtype=torch.float64)
native, reference = (
    fk.train_sweep(*data, rates, rates, steps=50, backend=backend)
    for backend in ("native", "reference")
)
torch.testing.assert_close(native.value, reference.value, rtol=1e-9, atol=0)
assert torch.equal(native.converged, reference.converged)

print(
    f"built with torch {built_with} and for {' '.join(architectures)}, imports without a word and "
    f"passes its op tests under torch {torch.__version__} (CUDA {torch.version.cuda})"
)
PYTHON
