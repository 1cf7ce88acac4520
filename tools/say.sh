# Sourced by the other scripts of this folder: how they speak, and how they become root.

# a script that is ended by `set -e` says where
trap 'printf "!! %s stopped at line %s\n" "$0" "$LINENO" >&2' ERR

say() { printf '== %s\n' "$*"; }

# die WHAT [NEXT STEP]
die() {
    printf '!! %s\n' "$1" >&2
    [ -z "${2:-}" ] || printf '   %s\n' "$2" >&2
    exit 1
}

# as_root WHY COMMAND…: run the command as root. Containers are made by root; set-up needs it for system packages.
as_root() {
    local why=$1
    shift
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        [ -n "${SUDO_SAID:-}" ] || say "not root: using sudo ($why)"
        export SUDO_SAID=1
        sudo "$@"
    else
        die "no root and no sudo, and it is needed: $why" "run this as root, or install sudo and allow it for $(id -un)"
    fi
}

# quietly WHAT-IF-NOT COMMAND…: show the end of what a command prints only when it fails.
quietly() {
    local what=$1 log
    shift
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        rm -f "$log"
        die "$what" "(above: the last lines of '$*')"
    fi
    rm -f "$log"
}
