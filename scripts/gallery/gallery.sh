#!/bin/sh
# Trains the models of docs/gallery.md, makes its figures and copies them to docs/images. Run it in the root of the
# checkout after `make setup`. Finished steps are not repeated.
set -eu
export PATH="$PWD/.venv/bin:$PATH"

keep() { # keep FIGURE NAME: copy FIGURE.png to docs/images/NAME.png
    # With 128 colours the file has a third of the size.
    python -c 'import sys; from PIL import Image
Image.open(sys.argv[1]).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(sys.argv[2], optimize=True)
' "$1.png" "docs/images/$2.png"
}

# Models trained on scikit-learn's digits; nothing has to be downloaded
[ -f runs/gallery/at/last.pt ] || defenses train at --data digits --epochs 30 --out runs/gallery/at
[ -f runs/gallery/at-awp/last.pt ] || defenses train at-awp --data digits --epochs 30 --out runs/gallery/at-awp

# Weight loss landscapes
robust-eval landscape curve runs/gallery/at/last.pt runs/gallery/at-awp/last.pt --names AT,AT-AWP --pre-generated --out runs/gallery/landscape
keep runs/gallery/landscape/landscape-1d landscape-1d

robust-eval landscape plane runs/gallery/at/last.pt runs/gallery/at-awp/last.pt --names AT,AT-AWP --examples 300 --out runs/gallery/plane
keep runs/gallery/plane/landscape-2d landscape-2d

robust-eval landscape perturbation runs/gallery/at/last.pt --names AT --out runs/gallery/perturbed
keep runs/gallery/perturbed/weight-perturbation weight-perturbation

robust-eval landscape weights runs/gallery/at/last.pt runs/gallery/at-awp/last.pt --names AT,AT-AWP --out runs/gallery/weights
keep runs/gallery/weights/weights weights

# Longer runs with a larger epsilon, two seeds each
[ -f runs/gallery/long/at/s0/epoch-0040.pt ] || defenses train at --data digits --eps 0.2 --epochs 40 --seed 0 --set selection.test_images=360 --set selection.every=2 --set selection.keep_every=4 --out runs/gallery/long/at/s0
[ -f runs/gallery/long/at/s1/epoch-0040.pt ] || defenses train at --data digits --eps 0.2 --epochs 40 --seed 1 --set selection.test_images=360 --set selection.every=2 --set selection.keep_every=4 --out runs/gallery/long/at/s1
[ -f runs/gallery/long/at-awp/s0/epoch-0040.pt ] || defenses train at-awp --data digits --eps 0.2 --epochs 40 --seed 0 --set selection.test_images=360 --set selection.every=2 --set selection.keep_every=4 --out runs/gallery/long/at-awp/s0
[ -f runs/gallery/long/at-awp/s1/epoch-0040.pt ] || defenses train at-awp --data digits --eps 0.2 --epochs 40 --seed 1 --set selection.test_images=360 --set selection.every=2 --set selection.keep_every=4 --out runs/gallery/long/at-awp/s1

# Learning curves, generalisation gap against flatness, a sweep, a table
defenses curves runs/gallery/long/at/s0 runs/gallery/long/at-awp/s0 --names AT,AT-AWP --out runs/gallery/curves
keep runs/gallery/curves learning-curves

robust-eval landscape curve runs/gallery/long/*/s0/epoch-*.pt --points 11 --directions 2 --examples 300 --out runs/gallery/flatness
defenses curves runs/gallery/long/at/s0 runs/gallery/long/at-awp/s0 --names AT,AT-AWP --against-flatness runs/gallery/flatness/landscape-1d.json --out runs/gallery/gap-flatness
keep runs/gallery/gap-flatness gap-flatness

defenses sweep at-awp at-rwp --over awp.gamma=0,1e-3,5e-3,1e-2,5e-2 --data digits --eps 0.2 --epochs 30 --set selection.test_images=360 --out runs/gallery/sweep
keep runs/gallery/sweep/sweep sweep-gamma

mkdir -p docs/tables
defenses table 4 runs/gallery/long --out docs/tables/table4
rm docs/tables/table4.json

# Liu et al. 2020
robust-eval landscape hessian runs/gallery/long/at/s0/last.pt runs/gallery/long/at-awp/s0/last.pt --names AT,AT-AWP --examples 500 --out runs/gallery/hessian
keep runs/gallery/hessian/hessian hessian

robust-eval landscape scattering runs/gallery/long/at/s0/last.pt runs/gallery/long/at-awp/s0/last.pt --names AT,AT-AWP --examples 500 --out runs/gallery/scattering
keep runs/gallery/scattering/scattering scattering

robust-eval landscape connectivity runs/gallery/long/at/s0/last.pt runs/gallery/long/at/s1/last.pt --names "seed 0,seed 1" --examples 500 --out runs/gallery/connectivity
keep runs/gallery/connectivity/connectivity connectivity

robust-eval landscape linear --data digits --classes 3,8 --out runs/gallery/linear-experiment
keep runs/gallery/linear-experiment linear-experiment

# Snapshot ensemble
[ -f runs/gallery/at-pas/ensemble.pt ] || defenses train at-pas --data digits --eps 0.2 --epochs 30 --set selection.test_images=360 --out runs/gallery/at-pas
robust-eval run runs/gallery/at-pas/last.pt --suite quick --out runs/gallery/at-pas/last
robust-eval run runs/gallery/at-pas/ensemble.pt --suite quick --out runs/gallery/at-pas/ensemble
robust-eval compare runs/gallery/at-pas/last/result.json runs/gallery/at-pas/ensemble/result.json > docs/tables/snapshot-ensemble.txt

# The numbers in the text of the page, which tests/repository/test_gallery.py compares with it
python -m scripts.gallery.numbers runs/gallery > docs/tables/gallery.json
