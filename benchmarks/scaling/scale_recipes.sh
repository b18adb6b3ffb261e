#!/usr/bin/env bash
# Run the SLURM recipes of docs/scale.md on one machine: three shards, merged; two Ray nodes; and one process.
# The three results must agree. Needs robust-eval[ray] on the path. Stops only the Ray nodes that it started:
# `ray stop` would stop all Ray processes on this machine.
set -euo pipefail
checkpoint=${1:?usage: scale_recipes.sh CHECKPOINT [options of robust-eval run, such as --data digits --eps 0.1]}
shift
work=$(mktemp -d)
port=${PORT:-6399}
nodes=()
finish() {
	for node in "${nodes[@]}"; do kill "$node" 2>/dev/null || true; done
	for node in "${nodes[@]}"; do wait "$node" 2>/dev/null || true; done
	rm -rf "$work"
}
trap finish EXIT
common=("$checkpoint" "$@")

for SLURM_ARRAY_TASK_ID in 1 2 3; do
	robust-eval run "${common[@]}" --shard "$SLURM_ARRAY_TASK_ID/3" --out "$work/shard-$SLURM_ARRAY_TASK_ID"
done
robust-eval merge "$work"/shard-? --out "$work/merged"
robust-eval run "${common[@]}" --blocks 3 --out "$work/alone"

# A secret for this cluster: only processes that know it may run code on its nodes.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
small=(--num-cpus 1 --object-store-memory 100000000 --disable-usage-stats --block)
ray start --head --port="$port" --include-dashboard=false "${small[@]}" >"$work/head.log" 2>&1 &
nodes+=($!)
for _ in $(seq 60); do
	(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
	sleep 1
done
sleep 5
ray start --address="127.0.0.1:$port" "${small[@]}" >"$work/node.log" 2>&1 &
nodes+=($!)
sleep "${SETTLE:-20}"
robust-eval run "${common[@]}" --blocks 3 --executor ray --address "127.0.0.1:$port" --workers 2 --out "$work/ray" ||
	{ tail -n 5 "$work/head.log" "$work/node.log" >&2; exit 1; }

python - "$work" <<'PYTHON'
import json, sys
from pathlib import Path

results = {}
for name in ("merged", "alone", "ray"):
    columns = json.loads((Path(sys.argv[1]) / name / "result.json").read_text())["columns"]
    results[name] = {column: found["robust_bits"] for column, found in columns.items()}
assert results["merged"] == results["alone"] == results["ray"], "the results differ"
print("Merged shards, two Ray nodes and one process: the same verdicts.")
PYTHON
