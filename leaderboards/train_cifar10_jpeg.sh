#!/bin/sh
# The rows of leaderboards/cifar10-jpeg-linf-8-255: the AT, TRADES and MART pairs on CIFAR-10 as JPEG copies, judged by
# `full`. Meant for a GPU. What is finished is not done again, what was interrupted goes on.
#   sh leaderboards/train_cifar10_jpeg.sh FOLDER_WITH_TRAIN_AND_TEST [EXAMPLES [SEEDS [FOLDER]]]
# The images' folder is named cifar10-jpeg: the board's rules know it by that. Environment: DEVICE (auto), EPOCHS (30),
# PRECISION of training (bf16), SEARCH precision of the evaluation (auto), RECIPES (the six below).
set -eu
export PATH="$PWD/.venv/bin:$PATH"
images=${1:?usage: train_cifar10_jpeg.sh FOLDER_WITH_TRAIN_AND_TEST [EXAMPLES [SEEDS [FOLDER]]]}
examples=${2:-1000}
seeds=${3:-0}
at=${4:-runs/cifar10-jpeg}
board=leaderboards/cifar10-jpeg-linf-8-255
mkdir -p "$board/results" "$at"

for seed in $(echo "$seeds" | tr , ' '); do
    for recipe in ${RECIPES:-at at-awp trades trades-awp mart mart-awp}; do
        run=$at/$recipe-s$seed
        # shellcheck disable=SC2046
        [ -f "$run/last.pt" ] || defenses train "$recipe" --data "folder:$images" --eps 8/255 --arch preact-resnet-18 \
            --epochs "${EPOCHS:-30}" --precision "${PRECISION:-bf16}" --device "${DEVICE:-auto}" --seed "$seed" \
            --out "$run" $([ -f "$run/resume.pt" ] && echo --resume)
        robust-eval run "$run/best.pt" --data "folder:$images" --eps 8/255 --suite full --examples "$examples" \
            --precision "${SEARCH:-auto}" --device "${DEVICE:-auto}" --out "$run/full"
        robust-eval verify "$run/full/result.json" --checkpoint "$run/best.pt" --data "folder:$images"
        robust-eval leaderboard add "$run/full/result.json" "$board" --images --curve "$run/curve.csv" \
            --data "folder:$images" --replace
    done
    [ "$seed" = 0 ] && robust-eval landscape "$at/at-s0/best.pt" "$at/at-awp-s0/best.pt" --data "folder:$images" \
        --eps 8/255 --out "$at/landscape"
done
robust-eval leaderboard build "$board"
robust-eval leaderboard check "$board"
python docs/reproduction_tables.py
