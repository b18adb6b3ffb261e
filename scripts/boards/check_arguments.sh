# Functions that check the arguments of the board scripts before hours of work; sourced by those scripts.

refuse() { # refuse MESSAGE: print it and exit with 2
    echo "$1" >&2
    exit 2
}

check_integer() { # check_integer NAME VALUE MINIMUM
    case $2 in '' | *[!0-9]*) refuse "$1 must be a whole number, got '$2'." ;; esac
    [ "$2" -ge "$3" ] || refuse "$1 must be at least $3 on this board, got $2."
}

check_seeds() { # check_seeds LIST, for example 0,1,2
    case $1 in '' | ,* | *, | *,,* | *[!0-9,]*) refuse "SEEDS must be whole numbers separated by commas, such as 0,1,2; got '$1'." ;; esac
}

check_recipes() { # check_recipes SELECTED KNOWN: every word of SELECTED must be in KNOWN
    [ -n "$(printf %s "$1" | tr -d ' ')" ] || refuse "RECIPES is empty. This board has: $2."
    for selected in $1; do
        case " $2 " in *" $selected "*) ;; *) refuse "RECIPES: '$selected' is not a recipe of this board. It has: $2." ;; esac
    done
}

check_search() { # check_search PRECISION EXECUTOR: values that robust-eval run accepts
    case $1 in auto | float32 | bfloat16) ;; *) refuse "SEARCH must be auto, float32 or bfloat16, got '$1'." ;; esac
    case $2 in '' | local | ray | "ray "*) ;; *) refuse "EXECUTOR must be local or ray, got '$2'." ;; esac
}

check_images() { # check_images DATA ROOT SPLIT N: at least N images must be available
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
