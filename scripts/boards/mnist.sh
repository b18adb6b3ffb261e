#!/bin/sh
# Make the rows of leaderboards/mnist-linf-0.3: the pairs of the AWP paper that need no additional data, trained with one
# recipe and evaluated with the suite full. Run it from the top of the checkout after `make setup`. Run it again to
# resume: finished steps are skipped.
#   sh scripts/boards/mnist.sh DATA_ROOT [EXAMPLES [SEEDS [FOLDER]]]
# Environment: DEVICE (auto), EPOCHS (6), PRECISION of training (bf16), SEARCH: precision of the attacks (auto),
# EXECUTOR ("ray --address local" uses all cores of a machine without a GPU), RECIPES (default: the pairs; the
# regularisers of section 5.3 of the paper only if named), OMP_NUM_THREADS (1, as for the published rows).
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
check_integer EXAMPLES "$examples" 1000
check_integer EPOCHS "${EPOCHS:-6}" 1
check_seeds "$seeds"
check_recipes "${RECIPES:-$pairs}" "$pairs $regularised"
[ -d "$root" ] || refuse "$root is not a folder. Give the folder of mnist's four files, or create it for the download."
check_search "${SEARCH:-auto}" "${EXECUTOR:-}"
check_images mnist "$root" train 1
check_images mnist "$root" test "$examples"
mkdir -p "$at"
# Common to all recipes: PGD-10, cosine schedule, warm-up of epsilon and of the weight perturbation.
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
        # A finished run ends at once.
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
