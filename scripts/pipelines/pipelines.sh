#!/bin/sh
# Run the pipelines of docs/training.md, MNIST to digits: self-training with unlabelled images and adversarial
# pre-training, each with and without weight perturbation, and the same defenses without additional data. Run it from
# the top of the checkout after `make setup`. Run it again to resume: finished steps are skipped.
#   sh scripts/pipelines/pipelines.sh [DATA_ROOT [SEEDS [FOLDER]]]   DATA_ROOT: folder of MNIST's four files (downloaded if missing)
# Images and networks are tiny, so one thread is faster than two; the number of threads affects rounding and so the
# trained weights.
set -eu
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
[ -f scripts/pipelines/pipelines.sh ] || { echo "Run this from the top of the checkout." >&2; exit 2; }
root=${1:-$HOME/.cache/robust-eval}
seeds=${2:-0}
at=${3:-runs/pipelines}
mkdir -p "$at"

# The first 10,000 MNIST images at 8x8: remove a border of 2 pixels, average blocks of 3x3.
[ -f "$at/unlabelled.npz" ] || python - "$root" "$at" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np

from robust_eval.core.errors import UserError
from robust_eval.core.files import atomic
from robust_eval.data import load

try:
    mnist = load("mnist", root=Path(sys.argv[1]), split="train").take(10_000)
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
x_NHW = mnist.x_NHWC[:, 2:26, 2:26, 0].reshape(-1, 8, 3, 8, 3).mean((2, 4)).round().astype(np.uint8)
folder = Path(sys.argv[2])
with atomic(folder / "mnist8.npz") as file:
    np.savez(file, x=x_NHW, y=mnist.y_N, class_names=mnist.class_names)
with atomic(folder / "unlabelled.npz") as file:  # written last: if it exists, both are complete
    np.savez(file, x=x_NHW)
PYTHON

train() { # train FOLDER RECIPE OPTIONS...: train or resume, then evaluate; a finished run ends at once
    out=$at/$1 method=$2; shift 2 # variables are global: do not overwrite the loops' "recipe"
    defenses train "$method" --out "$out" "$@" $([ ! -f "$out/resume.pt" ] || echo --resume)
    [ -d "$out/quick" ] || robust-eval run "$out/best.pt" --data digits --eps 0.1 --suite quick --out "$out/quick"
}
# The recipes' settings for digits, which are not applied to an npz archive by default.
small="--arch digits-cnn --eps 0.1 --set augment.crop_padding=0 --set augment.flip=false --set normalisation=2x-1"
small="$small --set inner.step_size=1/3 --set inner.steps=5 --set training.batch_size=64 --set selection.every=3"

for s in $(echo "$seeds" | tr , ' '); do
    # Defenses without additional data
    for recipe in at at-awp trades trades-awp mart mart-awp; do
        train "$recipe-s$s" "$recipe" --data digits --seed "$s"
    done

    # Robust self-training: a network that labels MNIST, then batches of half labelled, half pseudo-labelled images
    train "labeller-s$s" natural --data digits --seed "$s"
    [ -f "$at/pseudo-s$s.npz" ] || defenses pseudo-label "$at/labeller-s$s/best.pt" --data "npz:$at/unlabelled.npz" --out "$at/pseudo-s$s.npz"
    for recipe in rst rst-awp; do
        train "$recipe-s$s" "$recipe" --data digits --unlabelled "$at/pseudo-s$s.npz" --seed "$s"
    done

    # Adversarial pre-training on MNIST, fine-tuning on digits with a new last layer; both start from the same network
    # shellcheck disable=SC2086
    train "mnist8-s$s" at --data "npz:$at/mnist8.npz" --epochs 15 $small --seed "$s"
    train "pretraining-s$s" pretraining --data digits --init "$at/mnist8-s$s/best.pt" --seed "$s"
    train "pretraining-awp-s$s" pretraining-awp --data digits --init "$at/mnist8-s$s/best.pt" --seed "$s"
done

# Collect the results in the format of docs/tables/pipelines.json, the input of scripts/tables/pipelines.py
python - "$at" "$seeds" <<'PYTHON'
import json
import sys
from pathlib import Path

import numpy as np

runs, seeds = Path(sys.argv[1]), sys.argv[2].split(",")
true = np.load(runs / "mnist8.npz")["y"]
found = {"pseudo_labels_right": {}, "accuracy": {}}
for s in seeds:
    found["pseudo_labels_right"][s] = float(np.mean(np.load(runs / f"pseudo-s{s}.npz")["y"] == true))
for recipe in ("at", "trades", "mart", "rst", "pretraining"):
    for name in (recipe, f"{recipe}-awp"):
        results = {s: json.loads((runs / f"{name}-s{s}/quick/result.json").read_text()) for s in seeds}
        found["accuracy"][name] = {
            s: {column: result["columns"][column]["accuracy"] for column in ("clean", "fgsm", "pgd-20")}
            for s, result in results.items()
        }
(runs / "pipelines.json").write_text(json.dumps(found, indent=1) + "\n")
print(f"Written: {runs / 'pipelines.json'}")
PYTHON
