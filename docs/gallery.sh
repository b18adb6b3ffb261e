#!/bin/sh
# Makes every figure of docs/gallery.md from nothing: trains two small models, measures, draws, copies the
# pictures. Run it from the top of the checkout after `make setup`; what is finished is not done again.
set -eu
export PATH="$PWD/.venv/bin:$PATH"

keep() { # keep FIGURE NAME: the picture of the page
    # In 128 colours, a third of the size.
    python -c 'import sys; from PIL import Image
Image.open(sys.argv[1]).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(sys.argv[2], optimize=True)
' "$1.png" "docs/images/$2.png"
}

# The models: the project's own recipes on scikit-learn's digits, nothing to download.
[ -f runs/gallery/at/last.pt ] || defenses train at --data digits --epochs 30 --out runs/gallery/at
[ -f runs/gallery/at-awp/last.pt ] || defenses train at-awp --data digits --epochs 30 --out runs/gallery/at-awp

# Weight loss landscapes
robust-eval landscape runs/gallery/at/last.pt runs/gallery/at-awp/last.pt --names AT,AT-AWP --pre-generated --out runs/gallery/landscape
keep runs/gallery/landscape/landscape-1d landscape-1d

robust-eval landscape runs/gallery/at/last.pt runs/gallery/at-awp/last.pt --names AT,AT-AWP --plane --examples 300 --out runs/gallery/plane
keep runs/gallery/plane/landscape-2d landscape-2d

robust-eval landscape runs/gallery/at/last.pt --names AT --perturbation awp,rwp --out runs/gallery/perturbed
keep runs/gallery/perturbed/weight-perturbation weight-perturbation

robust-eval weights runs/gallery/at/last.pt runs/gallery/at-awp/last.pt --names AT,AT-AWP --out runs/gallery/weights
keep runs/gallery/weights/weights weights
