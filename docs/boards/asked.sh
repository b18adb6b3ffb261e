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
    case $1 in '' | *[!0-9,]*) refuse "SEEDS must be whole numbers with commas between, such as 0,1,2, got '$1'." ;; esac
}

recipes() { # recipes ASKED KNOWN: every word of the first among those of the second
    for asked in $1; do
        case " $2 " in *" $asked "*) ;; *) refuse "RECIPES: '$asked' is none of this board's: $2." ;; esac
    done
}
