#!/usr/bin/env bash
# Everything that needs a GPU: `make gpu-check`, or tests/gpu/check.sh [PYTHON]. Fails where there is none.
# Wants torch with CUDA and pycuda (pip install -e '.[train,dev,cuda]'); compute-sanitizer is used where it is found.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python}
export REQUIRE_GPU=1

nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv,noheader || echo "no nvidia-smi here (a Jetson has none)"
"$python" -c "import torch; print('torch', torch.__version__, 'CUDA', torch.version.cuda, torch.cuda.get_device_name(0))"

echo "== tests marked gpu, and the table of the kernels on the device"
"$python" -m pytest -m gpu tests

if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        echo "== compute-sanitizer --tool $tool"
        compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" -m pytest -m gpu tests/kernels -k "cuda and 257"
    done
else
    echo "== no compute-sanitizer here: not run"
fi

echo "== speed"
gpu=$("$python" -c "import re, torch; print(re.sub(r'[^a-z0-9]+', '-', torch.cuda.get_device_name(0).lower()))")
mkdir -p benchmarks/results
"$python" -m edgeproof.kernels.bench --out "benchmarks/results/kernels-$gpu.json"
echo "wrote benchmarks/results/kernels-$gpu.json"
