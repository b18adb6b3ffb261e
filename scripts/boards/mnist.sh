#!/bin/sh
# The rows of leaderboards/mnist-linf-0.3, from nothing: every pair of the paper that needs no more data, trained
# under one recipe and judged by `full`. Run it from the top of the checkout after `make setup`; what is finished is not
# done again, what was interrupted goes on.
#   sh scripts/boards/mnist.sh DATA_ROOT [EXAMPLES [SEEDS [FOLDER]]]
# Environment: DEVICE (auto), EPOCHS (6), PRECISION of training (bf16), SEARCH precision of the evaluation (auto),
# EXECUTOR ("ray --address local" keeps every core of a machine without a GPU busy), RECIPES (the pairs; the
# regularisers of the paper's section 5.3 where they are named), OMP_NUM_THREADS (1, as for the rows that are there).
# With a GPU: EXAMPLES 10000, SEEDS 0,1,2, EPOCHS 40.
set -eu
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
[ -f scripts/boards/check_arguments.sh ] || { echo "Run this from the top of the checkout." >&2; exit 2; }
. scripts/boards/check_arguments.sh
[ $# -gt 0 ] || refuse "usage: sh scripts/boards/mnist.sh DATA_ROOT [EXAMPLES [SEEDS [FOLDER]]]"
root=$1
examples=${2:-1000}
seeds=${3:-0}
at=${4:-runs/mnist}
board=leaderboards/mnist-linf-0.3
pairs="at at-awp trades trades-awp mart mart-awp"
regularised="at-rwp at-l1 at-l2 at-cutout at-mixup"
whole EXAMPLES "$examples" 1000
whole EPOCHS "${EPOCHS:-6}" 1
seeds "$seeds"
recipes "${RECIPES:-$pairs}" "$pairs $regularised"
[ -d "$root" ] || refuse "$root is not a folder. Name the one that holds mnist's four files, or make it to receive them."
searches "${SEARCH:-auto}" "${EXECUTOR:-}"
enough mnist "$root" train 1
enough mnist "$root" test "$examples"
mkdir -p "$at"
# What all of them share: PGD-10, cosine schedule, epsilon and perturbation growing at first.
same="--set inner.steps=10 --set inner.step_size=1/6 --set optimiser.lr=0.05 --set schedule.kind=cosine"
same="$same --set schedule.clock=iteration --set budget.kind=linear --set budget.start=1/3 --set budget.peak=3"
same="$same --set selection.train_images=500"

for seed in $(echo "$seeds" | tr , ' '); do
    for recipe in ${RECIPES:-$pairs}; do
        run=$at/$recipe-s$seed
        set --
        case $recipe in
        *-awp | *-rwp) set -- --set perturbation.warmup=1/6 ;;
        esac
        case $recipe in
        trades*) set -- "$@" --set objective.beta=6 ;;
        esac
        # A run that is finished says so and ends at once.
        # shellcheck disable=SC2046,SC2086
        defenses train "$recipe" --data mnist --data-root "$root" --eps 0.3 --arch small-cnn \
            --epochs "${EPOCHS:-6}" --precision "${PRECISION:-bf16}" --device "${DEVICE:-auto}" --seed "$seed" $same "$@" \
            --out "$run" $([ ! -f "$run/resume.pt" ] || echo --resume)
        robust-eval run "$run/best.pt" --data mnist --data-root "$root" --eps 0.3 --suite full --examples "$examples" \
            --precision "${SEARCH:-auto}" --device "${DEVICE:-auto}" --batch-size 100 --out "$run/full" \
            ${EXECUTOR:+--executor $EXECUTOR}
        robust-eval verify "$run/full/result.json" --checkpoint "$run/best.pt" --data-root "$root"
        robust-eval leaderboard add "$run/full/result.json" "$board" --images --curve "$run/curve.csv" \
            --data-root "$root" --checkpoint "$run/best.pt" --evidence --replace
    done
done
robust-eval leaderboard build "$board"
robust-eval leaderboard check "$board"
python -m scripts.tables.reproduction
