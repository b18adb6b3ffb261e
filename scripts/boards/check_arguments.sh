# What the scripts of the boards ask of their arguments before hours are spent. Sourced from the top of the checkout.

refuse() { # refuse SENTENCE: what to do, and exit code 2
    echo "$1" >&2
    exit 2
}

whole() { # whole NAME VALUE LEAST: a whole number of at least LEAST
    case $2 in '' | *[!0-9]*) refuse "$1 must be a whole number, got '$2'." ;; esac
    [ "$2" -ge "$3" ] || refuse "$1 must be at least $3 on this board, got $2."
}

seeds() { # seeds LIST: 0,1,2
    case $1 in '' | ,* | *, | *,,* | *[!0-9,]*) refuse "SEEDS must be whole numbers with commas between, such as 0,1,2, got '$1'." ;; esac
}

recipes() { # recipes ASKED KNOWN: every word of the first among those of the second
    [ -n "$(printf %s "$1" | tr -d ' ')" ] || refuse "RECIPES is empty. This board's: $2."
    for asked in $1; do
        case " $2 " in *" $asked "*) ;; *) refuse "RECIPES: '$asked' is none of this board's: $2." ;; esac
    done
}

searches() { # searches PRECISION EXECUTOR: as robust-eval run takes them
    case $1 in auto | float32 | bfloat16) ;; *) refuse "SEARCH must be auto, float32 or bfloat16, got '$1'." ;; esac
    case $2 in '' | local | ray | "ray "*) ;; *) refuse "EXECUTOR must be local or ray, got '$2'." ;; esac
}

enough() { # enough DATA ROOT SPLIT N: the images are there, and so many
    python - "$@" <<'PYTHON' || exit 2
import sys
from pathlib import Path

from robust_eval.core.errors import UserError
from robust_eval.data import load

data, root, split, n = sys.argv[1:]
try:
    load(data, root=Path(root), split=split).take(int(n))
except UserError as error:
    sys.exit(str(error))
PYTHON
}
