#!/usr/bin/env bash
# One session on a machine with a GPU: its tests, then its benchmarks; logs, figures and the JSON go to a directory.
#
#   benchmarks/gpu_session.sh OUT [PART ...]     PART as for gpu.py; PYTHON, TEST_S and BENCHMARK_S may be set
#
# Needs no installation of this package: PYTHON (default python3) must see torch with CUDA and our dependencies. Ends
# within TEST_S + QUICKSTART_S + BENCHMARK_S seconds (defaults 170, 0 and 470; 0 leaves one out) and does every part
# whatever the ones before it gave. TESTS chooses tests, as on pytest's command line.
set -uo pipefail
cd "$(dirname "$0")/.."
out="$(mkdir -p "$1" && cd "$1" && pwd)"
shift
python="${PYTHON:-python3}"
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | tee "$out/card.txt"
"$python" -c 'import torch, transformers; print("torch", torch.__version__, "transformers", transformers.__version__)' |
  tee -a "$out/card.txt"
test_s="${TEST_S:-170}"
if [ "$test_s" -gt 0 ]; then
  timeout --kill-after=5 "$test_s" "$python" -m pytest ${TESTS:-tests/gpu} -m gpu -p no:cacheprovider --tb=short -rfE 2>&1 |
    tee "$out/tests.log" | tail -n 150
fi
quickstart_s="${QUICKSTART_S:-0}"
if [ "$quickstart_s" -gt 0 ]; then
  runs="$(mktemp -d)"
  timeout --signal=INT --kill-after=15 "$quickstart_s" "$python" -m deepscaler quickstart --run-dir "$runs" \
    > "$out/quickstart.log" 2>&1
  tail -n 40 "$out/quickstart.log"
  cp "$runs"/seed-*/metrics.jsonl "$out/quickstart-metrics.jsonl"
  cp "$runs/summary.json" "$out/quickstart-summary.json" 2>/dev/null
  rm -r "$runs"
fi
benchmark_s="${BENCHMARK_S:-470}"
if [ "$benchmark_s" -gt 0 ]; then
  timeout --kill-after=5 "$((benchmark_s + 20))" "$python" benchmarks/gpu.py --json "$out/gpu.json" \
    --budget-s "$benchmark_s" ${1:+--parts "$@"} 2>&1 >/dev/null | tee "$out/benchmark.log" | tail -n 60
fi
