#!/usr/bin/env bash
# Runs what needs a GPU, on a machine that has one and no network: bash devtools/on_gpu.sh OUT [--device cuda|cpu] [--quick]
#
# It uses the repository and what `python -m devtools.gpu_bundle` put into .gpu/, and takes eight minutes at most.
# OUT/log has all that was printed, OUT/figures.json what was measured. It fails if any step did, after the last one.
set -uo pipefail

TOTAL=${TOTAL:-470} # seconds for everything on a GPU; a CPU takes several times as long
FIGURES=${FIGURES:-unets guidance transformers demo} # what is measured, in this order
REPO=$(cd "$(dirname "$0")/.." && pwd)

usage() {
    echo "usage: bash devtools/on_gpu.sh OUT [--device cuda|cpu] [--quick]" >&2
    exit 2
}

OUT="" DEVICE=cuda QUICK=""
while [ $# -gt 0 ]; do
    case $1 in
        --device) DEVICE=${2:-} && shift 2 || usage ;;
        --quick) QUICK=--quick && shift ;;
        -*) usage ;;
        *) OUT=$1 && shift ;;
    esac
done
[ -n "$OUT" ] && [[ $DEVICE =~ ^(cuda|cpu)$ ]] || usage
SLOWER=1 && [ "$DEVICE" = cuda ] || SLOWER=6
TOTAL=$((TOTAL * SLOWER))
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd)
WORK=$(mktemp -d) && trap 'rm -rf "$WORK"' EXIT
cd "$REPO"
: >"$OUT/log"

# What a step is called, how many seconds it may take, and its command; the most valuable first.
STEPS=()
step() { STEPS+=("$1|$(($2 * SLOWER))|$3"); }

MEASURE="python3 -m benchmarks.gpu $FIGURES --device $DEVICE $QUICK --out '$OUT/figures.json'"
PYTEST="OMP_NUM_THREADS=1 python3 -m pytest -q -p no:cacheprovider --timeout=100 --durations=8"
# Tests that follow each other share tiny models: a worker begins with a row of them, and takes others' when it is done.
WORKERS="-n 8 --dist=worksteal"

step install 60 install
# Those that compare with a model on the CPU are left out.
HOST="test_backbone test_transformers test_transformer_attention test_lora test_runs"
HOST=$(printf 'tests/nodes/host/%s.py ' $HOST)
if [ -n "$QUICK" ]; then
    PLAIN="$PYTEST tests/test_cuda.py tests/nodes/host/test_lora.py"
else
    PLAIN="$PYTEST $WORKERS tests/test_cuda.py $HOST"
fi
STREAMED=true
if [ "$DEVICE" = cuda ] && [ -z "$QUICK" ]; then
    # The host's own main.py chooses this allocator, too.
    STREAMED="PALP_TEST_DYNAMIC_VRAM=1 PYTORCH_CUDA_ALLOC_CONF=backend:cudaMallocAsync"
    STREAMED+=" $PYTEST $WORKERS tests/nodes/host/test_transformers.py tests/nodes/host/test_backbone.py"
fi
step tests 120 tests
step figures 320 "$MEASURE"

# Beside each other: with weights as they are, and streamed in (dynamic VRAM).
tests() {
    eval "$STREAMED" >"$WORK/streamed.log" 2>&1 &
    local streamed=$! status=0
    eval "$PLAIN" || status=1
    wait $streamed || status=1
    echo "With dynamic VRAM:"
    cat "$WORK/streamed.log"
    return $status
}

install() {
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
        --target "$WORK/site" .gpu/wheels/*.whl &&
        tar -xJf .gpu/ComfyUI.tar.xz -C "$WORK" &&
        # Not the repository itself, whose nodes/ would hide the host's nodes.py.
        ln -s "$REPO/palp_core" "$WORK/site/palp_core" &&
        python3 -c "$VERSIONS"
}

VERSIONS='
import platform, comfy_aimdo, diffusers, peft, torch, transformers
packages = " ".join(f"{module.__name__} {module.__version__}" for module in (torch, diffusers, transformers, peft))
print("Python", platform.python_version(), packages)
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA")
'
export VERSIONS WORK REPO PLAIN STREAMED
export -f install tests
export COMFYUI_PATH=$WORK/ComfyUI PYTHONPATH=$WORK/site:$REPO/.gpu/stand_ins PYTHONUNBUFFERED=1
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 MPLCONFIGDIR=$WORK/matplotlib
[ "$DEVICE" = cuda ] || export CUDA_VISIBLE_DEVICES=""

SUMMARY="" FAILED=0
for entry in "${STEPS[@]}"; do
    IFS='|' read -r name seconds command <<<"$entry"
    left=$((TOTAL - SECONDS))
    begun=$SECONDS
    printf '\n== %s: %s\n' "$name" "$command" | tee -a "$OUT/log"
    # Without a second left, timeout would take 0 for no limit.
    timeout -k 5 $((left < 1 ? 1 : left < seconds ? left : seconds)) bash -c "$command" 2>&1 | tee -a "$OUT/log"
    status=${PIPESTATUS[0]}
    [ "$status" -eq 0 ] || FAILED=1
    SUMMARY+=$(printf '%-14s exit %3d %4d s' "$name" "$status" $((SECONDS - begun)))$'\n'
done
printf '\n%s' "$SUMMARY" | tee -a "$OUT/log"
exit $FAILED
