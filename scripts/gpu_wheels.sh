#!/usr/bin/env bash
# Collects in gpu/ what a machine with PyTorch, torchvision, transformers, accelerate and scikit-learn still lacks to run
# `make model-gpu` without a network: wheels (3 MB; with timm and rich 6 MB), and the search for twins if it was stored.
#
#   scripts/gpu_wheels.sh [PYTHON_VERSION] [PACKAGE ...]    # of the other machine, 3.12; packages beside pydantic
#   scripts/gpu_wheels.sh 3.12 timm rich
#
# If only 64 MiB may travel, the weights in the tree have to stay here: archive.zip alone takes 53 MiB. Nothing in the
# chain reads them. Remove them before, get them back after:
#
#   rm -r teachers src/mien/weights/*/*.onnx src/mien/weights/*/*.safetensors
#   git checkout -- teachers src/mien/weights
#
# The pictures alone, packed together by xz, take 38 MiB.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:-3.12}
shift || true
pip=${PIP:-"python3 -m pip"}
mkdir -p gpu/wheels gpu/cache
rm -f gpu/wheels/*.whl
names=(pydantic pydantic-core annotated-types typing-inspection "$@")
pins=()
for name in "${names[@]}"; do pins+=("$(grep -E "^$name==" constraints.txt || echo "$name")"); done
platforms=()
for tag in manylinux_2_28_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64; do platforms+=(--platform "$tag"); done
# pydantic needs one version of pydantic-core exactly, which it names itself.
core=$($pip download --quiet --no-deps --only-binary=:all: --python-version "$version" --implementation cp \
    "${platforms[@]}" -d gpu/wheels "${pins[0]}" && unzip -p gpu/wheels/pydantic-[0-9]*.whl '*/METADATA' \
    | sed -nE 's/^Requires-Dist: pydantic-core ?\(?==([0-9.]+)\)?.*/pydantic-core==\1/p')
pins[1]=${core:-pydantic-core}
$pip download --quiet --no-deps --only-binary=:all: --python-version "$version" --implementation cp \
    "${platforms[@]}" -d gpu/wheels "${pins[@]:1}"
cp "${MIEN_CACHE:-$HOME/.cache/mien}"/twins-*.npy gpu/cache/ 2>/dev/null || echo "no stored twins: they are searched for there" >&2
du -sh gpu/wheels gpu/cache
echo "tracked files: $(git ls-files -z | xargs -0 du -cb 2>/dev/null | tail -1 | awk '{ printf "%.1f MiB", $1 / 2^20 }')"
