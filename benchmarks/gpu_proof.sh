#!/usr/bin/env bash
# What the engine does on a real card, in one command of at most nine minutes, without a network:
#
#     bash benchmarks/gpu_proof.sh              on a machine with an NVIDIA card
#     bash benchmarks/gpu_proof.sh --rehearse   the same parts on the CPU, at sizes that a CPU can do
#
# Wheels that the machine lacks lie in .whl/ (python -m pip download -d .whl --no-deps ...); one
# larger than the way there allows comes in pieces, `split -b 45M -d X.whl X.whl.part-`. The table is
# written to $OUT, build/gpu_proof by default, and printed. Kept runs: benchmarks/RESULTS.md.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${OUT:-build/gpu_proof}"
site="$PWD/build/gpu_proof_site"
mkdir -p "$out"
if [ -n "${PYTHON:-}" ]; then python="$PYTHON"; elif [ -x .venv/bin/python ]; then python="$PWD/.venv/bin/python"; else python=python3; fi

for first in .whl/*.whl.part-00; do
    [ -e "$first" ] || continue
    whole="${first%.part-00}"
    [ -e "$whole" ] || cat "$whole".part-* > "$whole"
done
if compgen -G ".whl/*.whl" > /dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" .whl/*.whl
fi

export PYTHONPATH="$site:$PWD" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
export SCENE_SPLATTER_CACHE="$PWD/build/gpu_proof_cache"
export SCENE_SPLATTER_COMPILE_GSPLAT=1 MAX_JOBS="${MAX_JOBS:-16}"
compiling=
if [[ " $* " != *" --rehearse "* ]] && command -v nvcc > /dev/null; then
    TORCH_CUDA_ARCH_LIST="$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')"
    export TORCH_CUDA_ARCH_LIST
    # minutes of compiling, while the parts that need no gsplat run
    "$python" -c 'from gsplat.cuda._backend import _C' > "$out/gsplat.log" 2>&1 &
    compiling=$!
fi
trap '[ -z "$compiling" ] || kill "$compiling" 2> /dev/null || true' EXIT
timeout -k 5 "${LIMIT:-540}" "$python" benchmarks/gpu_proof.py --out "$out" --limit "${LIMIT:-540}" "$@"
