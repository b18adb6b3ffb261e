#!/bin/sh
# Make the rows of leaderboards/digits: the ten methods of Table 2 of the AWP paper and natural training, trained by
# scripts/pipelines/pipelines.sh and evaluated with the suite full on all 360 test images. Run it from the top of the
# checkout after `make setup`. Run it again to resume: finished steps are skipped.
#   sh scripts/boards/digits.sh [DATA_ROOT [FOLDER]]     DATA_ROOT: folder of MNIST's four files (downloaded if missing)
# Environment: RECIPES (models that become rows; default: all eleven; all are trained in any case), OMP_NUM_THREADS
# (default: 1, as for the published rows; the number of threads affects rounding and so the trained weights).
set -eu
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
[ -f scripts/boards/check_arguments.sh ] || { echo "Run this from the top of the checkout." >&2; exit 2; }
. scripts/boards/check_arguments.sh
root=${1:-$HOME/.cache/robust-eval}
at=${2:-runs/pipelines}
board=leaderboards/digits
known="natural at at-awp trades trades-awp mart mart-awp rst rst-awp pretraining pretraining-awp"
check_recipes "${RECIPES:-$known}" "$known"
sh scripts/pipelines/pipelines.sh "$root" 0 "$at"

for recipe in ${RECIPES:-$known}; do
    run=$at/$recipe-s0
    # The naturally trained network is the one that labels the images of self-training.
    [ "$recipe" != natural ] || run=$at/labeller-s0
    robust-eval run "$run/best.pt" --data digits --eps 0.1 --suite full --out "$run/full"
    robust-eval verify "$run/full/result.json" --checkpoint "$run/best.pt"
    robust-eval leaderboard add "$run/full/result.json" "$board" --images --curve "$run/curve.csv" \
        --checkpoint "$run/best.pt" --evidence --replace
done
robust-eval leaderboard build "$board"
robust-eval leaderboard check "$board"
python -m scripts.tables.reproduction
