#!/usr/bin/env bash
# Checks the sources and the built library against the oldest torch that they promise to work with:
# the glue compiles with its headers, and it defines every torch symbol that the library imports.
#
#   scripts/check_oldest_torch.sh [TORCH]     default torch==2.11.0
#
# Needs the network and about 3 GB under TMPDIR; everything is removed afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=${1:-torch==2.11.0}
python=${PYTHON:-.venv/bin/python}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m pip download --quiet --no-deps --dest "$folder" "$wanted"
"$python" -m zipfile -e "$folder"/torch-*.whl "$folder"
headers=$folder/torch/include

definitions=(-DTORCH_TARGET_VERSION=0x020b000000000000)
for name in TORCH_TARGET TORCH_VERSION VERSION COMPILER CUDA_ARCHITECTURES; do
  definitions+=("-DFRACTALKERN_$name=\"\"")
done
includes=(-Icsrc "-isystem$("$python" -c 'import pybind11; print(pybind11.get_include())')"
  "-isystem$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')"
  "-isystem$headers" "-isystem$headers/torch/csrc/api/include")
for source in csrc/module.cpp csrc/*/*_op.cpp; do
  "${CXX:-c++}" @csrc/compile_flags.txt -fsyntax-only -fPIC "${definitions[@]}" "${includes[@]}" \
    "$source"
done

nm -D --defined-only "$folder"/torch/lib/libtorch_cpu.so | awk '{print $3}' | sort > "$folder/has"
nm -D --undefined-only fractalkern/_C*.so | awk '{print $2}' | grep -E '^(aoti_)?torch_' | sort \
  > "$folder/wants"
missing=$(comm -13 "$folder/has" "$folder/wants")
[ -z "$missing" ] || { echo "check_oldest_torch: $wanted lacks $missing" >&2; exit 1; }
echo "compiles with the headers of $wanted, which defines all $(wc -l < "$folder/wants") symbols"
