#!/usr/bin/env bash
# The SLURM recipes of docs/scale.md on one machine: shards one after the other and merged, two Ray nodes, and one
# process; the three rows must agree. Needs robust-eval[ray] on the path. Ends only the Ray nodes it has started:
# `ray stop` would end everybody's on this machine.
set -euo pipefail
checkpoint=${1:?usage: scale_recipes.sh CHECKPOINT [options of robust-eval run, such as --data digits --eps 0.1]}
shift
here=$(mktemp -d)
port=${PORT:-6399}
nodes=()
finish() {
	for node in "${nodes[@]}"; do kill "$node" 2>/dev/null || true; done
	for node in "${nodes[@]}"; do wait "$node" 2>/dev/null || true; done
	rm -rf "$here"
}
trap finish EXIT
common=("$checkpoint" "$@")

for SLURM_ARRAY_TASK_ID in 1 2 3; do
	robust-eval run "${common[@]}" --shard "$SLURM_ARRAY_TASK_ID/3" --out "$here/shard-$SLURM_ARRAY_TASK_ID"
done
robust-eval merge "$here"/shard-? --out "$here/merged"
robust-eval run "${common[@]}" --blocks 3 --out "$here/alone"

# A secret of this cluster's own, for as long as it lives: only who has it may run code on the nodes.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
small=(--num-cpus 1 --object-store-memory 100000000 --disable-usage-stats --block)
ray start --head --port="$port" --include-dashboard=false "${small[@]}" >"$here/head.log" 2>&1 &
nodes+=($!)
for _ in $(seq 60); do
	(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
	sleep 1
done
sleep 5
ray start --address="127.0.0.1:$port" "${small[@]}" >"$here/node.log" 2>&1 &
nodes+=($!)
sleep "${SETTLE:-20}"
robust-eval run "${common[@]}" --blocks 3 --executor ray --address "127.0.0.1:$port" --workers 2 --out "$here/ray" ||
	{ tail -n 5 "$here/head.log" "$here/node.log" >&2; exit 1; }

python - "$here" <<'PYTHON'
import json, sys
from pathlib import Path

rows = {}
for name in ("merged", "alone", "ray"):
    columns = json.loads((Path(sys.argv[1]) / name / "result.json").read_text())["columns"]
    rows[name] = {column: found["robust_bits"] for column, found in columns.items()}
assert rows["merged"] == rows["alone"] == rows["ray"], "the rows differ"
print("Merged shards, two Ray nodes and one process: the same verdicts.")
PYTHON
