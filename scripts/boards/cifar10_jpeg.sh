#!/bin/sh
# Make the rows of leaderboards/cifar10-jpeg-linf-8-255, on JPEG copies of CIFAR-10's images: the AT, TRADES and MART
# pairs; the RST pair, with 20,000 training images used as unlabelled; and, if MNIST is given, the pre-training pair,
# which starts from a network trained on it. All are evaluated with the suite full. Run it again to resume: finished steps are
# skipped.
#   sh scripts/boards/cifar10_jpeg.sh FOLDER_WITH_TRAIN_AND_TEST [EXAMPLES [SEEDS [FOLDER]]]
# The folder of images must be named cifar10-jpeg, because the board's rules use that name. Environment: NET
# (preact-resnet-18; small: a four-layer network with a short recipe for machines without a GPU), DEVICE (auto), EPOCHS
# (30, small: 10), PRECISION of training (bf16), SEARCH: precision of the attacks (auto), EXECUTOR ("ray --address local"
# uses all cores of a machine without a GPU), MNIST (folder of its four files), RECIPES (default: the ten below; without
# MNIST the first eight), OMP_NUM_THREADS (1, as for the published rows).
set -eu
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
[ -f scripts/boards/check_arguments.sh ] || { echo "Run this from the top of the checkout." >&2; exit 2; }
. scripts/boards/check_arguments.sh
[ $# -gt 0 ] || refuse "usage: sh scripts/boards/cifar10_jpeg.sh FOLDER_WITH_TRAIN_AND_TEST [EXAMPLES [SEEDS [FOLDER]]]"
images=$1
examples=${2:-1000}
seeds=${3:-0}
net=${NET:-preact-resnet-18}
at=${4:-runs/cifar10-jpeg-$net}
board=leaderboards/cifar10-jpeg-linf-8-255
known="at at-awp trades trades-awp mart mart-awp rst rst-awp${MNIST:+ pretraining pretraining-awp}"
check_integer EXAMPLES "$examples" 500
check_integer EPOCHS "${EPOCHS:-10}" 1
check_seeds "$seeds"
check_recipes "${RECIPES:-$known}" "$known"
for split in train test; do
    [ -d "$images/$split" ] || refuse "$images/$split is not a folder. Unpack the images: train/ and test/, with one folder per class."
done
[ "$(basename "$(cd "$images" && pwd -P)")" = cifar10-jpeg ] ||
    refuse "The folder of images must be named cifar10-jpeg, the name in the board's rules."
[ -z "${MNIST:-}" ] || [ -d "$MNIST" ] || refuse "MNIST: $MNIST is not a folder. Give the folder of its four files."
check_search "${SEARCH:-auto}" "${EXECUTOR:-}"
[ -z "${MNIST:-}" ] || check_images mnist "$MNIST" train 10000
check_images "folder:$images" . test "$examples"
mkdir -p "$at"
case $net in
small) # PGD-5, no crops, warm-up of epsilon: trains in minutes on a CPU
    epochs=${EPOCHS:-10}
    same="--arch small-cnn --set architecture_arguments.width=16 --epochs $epochs --set inner.steps=5"
    same="$same --set inner.step_size=1/3 --set augment.crop_padding=0 --set optimiser.lr=0.05 --set schedule.kind=cosine"
    same="$same --set schedule.clock=iteration --set selection.validation=1000 --set selection.train_images=500"
    same="$same --set budget.kind=linear --set budget.start=1/4 --set budget.peak=2"
    warm=1/5 ;;
*)
    epochs=${EPOCHS:-30}
    same="--arch $net --epochs $epochs" warm=0 ;;
esac

write_unlabelled() { # Self-training: 30,000 labelled and 20,000 unlabelled images, each in the folder's order.
    [ -f "$at/unlabelled.npz" ] || python - "$images" "$at" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np

from robust_eval.core.files import atomic
from robust_eval.data import load

images, folder = load(f"folder:{sys.argv[1]}", split="train"), Path(sys.argv[2])
order = np.random.default_rng(0).permutation(images.n)
labelled, rest = np.sort(order[:30_000]), np.sort(order[30_000:])
x, y, names = images.x_NHWC, images.y_N, images.class_names
with atomic(folder / "labelled.npz") as file:
    np.savez(file, x=x[labelled], y=y[labelled], class_names=names)
with atomic(folder / "unlabelled.npz") as file:  # written last: if it exists, both are complete
    np.savez(file, x=x[rest])
PYTHON
}

write_mnist32() { # Pre-training: MNIST's first 10,000 images in three channels, padded by 2 black pixels.
    [ -f "$at/mnist32.npz" ] || python - "$MNIST" "$at/mnist32.npz" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np

from robust_eval.core.files import atomic
from robust_eval.data import load

mnist = load("mnist", root=Path(sys.argv[1]), split="train").take(10_000)
x_NHWC = np.pad(mnist.x_NHWC, ((0, 0), (2, 2), (2, 2), (0, 0))).repeat(3, axis=3)
with atomic(Path(sys.argv[2])) as file:
    np.savez(file, x=x_NHWC, y=mnist.y_N, class_names=mnist.class_names)
PYTHON
}

train() { # train FOLDER RECIPE OPTIONS...: train or resume; a finished run ends at once
    out=$1 method=$2 # variables are global: do not overwrite the loop's "run" and "recipe"
    shift 2
    case $method in *-awp) [ "$warm" = 0 ] || set -- --set "perturbation.warmup=$warm" "$@" ;; esac
    # shellcheck disable=SC2046,SC2086
    defenses train "$method" --eps 8/255 $same --precision "${PRECISION:-bf16}" --device "${DEVICE:-auto}" "$@" \
        --out "$out" $([ ! -f "$out/resume.pt" ] || echo --resume)
}

for seed in $(echo "$seeds" | tr , ' '); do
    for recipe in ${RECIPES:-$known}; do
        run=$at/$recipe-s$seed
        case $recipe in
        rst*)
            write_unlabelled
            train "$at/labeller-s$seed" natural --data "npz:$at/labelled.npz" --seed "$seed"
            [ -f "$at/pseudo-s$seed.npz" ] || defenses pseudo-label "$at/labeller-s$seed/best.pt" \
                --data "npz:$at/unlabelled.npz" --out "$at/pseudo-s$seed.npz"
            train "$run" "$recipe" --data "npz:$at/labelled.npz" --unlabelled "$at/pseudo-s$seed.npz" --seed "$seed" ;;
        pretraining*)
            # Both rows of the pair start from the same network. MNIST is a weaker pre-training than ImageNet, so
            # fine-tuning uses the learning rate of the other recipes, for half of their epochs.
            write_mnist32
            train "$at/mnist32-s$seed" at --data "npz:$at/mnist32.npz" --set normalisation=2x-1 --seed "$seed"
            train "$run" "$recipe" --data "folder:$images" --init "$at/mnist32-s$seed/best.pt" --set optimiser.lr=0.05 \
                --epochs $(((epochs + 1) / 2)) --seed "$seed" ;;
        *) train "$run" "$recipe" --data "folder:$images" --seed "$seed" ;;
        esac
        robust-eval run "$run/best.pt" --data "folder:$images" --eps 8/255 --suite full --examples "$examples" \
            --precision "${SEARCH:-auto}" --device "${DEVICE:-auto}" ${EXECUTOR:+--executor $EXECUTOR} --out "$run/full"
        robust-eval verify "$run/full/result.json" --checkpoint "$run/best.pt" --data "folder:$images"
        # A board stores checkpoints of at most 8 MiB; the result records the hash of any checkpoint.
        small=$(find "$run/best.pt" -size -8192k)
        # shellcheck disable=SC2086
        robust-eval leaderboard add "$run/full/result.json" "$board" --images --curve "$run/curve.csv" \
            --data "folder:$images" ${small:+--checkpoint "$small"} --replace
    done
    [ "$seed" != 0 ] || robust-eval landscape curve "$at/at-s0/best.pt" "$at/at-awp-s0/best.pt" --data "folder:$images" \
        --eps 8/255 --out "$at/landscape"
done
robust-eval leaderboard build "$board"
robust-eval leaderboard check "$board"
python -m scripts.tables.reproduction
