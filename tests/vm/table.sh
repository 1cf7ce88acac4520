# Sourced by what tests the virtual machine: steps, one after the other, each timed, and their table.
# Wants: state, a folder. KEEP=1: stop after the first failure with a shell.
table=$state/table failures=0
: >"$table"

row() { printf '%-58s %8s  %s\n' "$1" "$2" "$3" | tee -a "$table"; }

# step WHAT COMMAND…
step() {
    local what=$1 began=$EPOCHREALTIME status=0
    shift
    printf '\n== %s\n' "$what"
    "$@" </dev/null 2>&1 | stdbuf -oL tr '\r' '\n' | sed -u /Progress:/d \
        | awk -v began="${began%.*}" '{printf "%5d  %s\n", systime() - began, $0; fflush()}' || status=$?
    local seconds
    seconds=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.1f s", b - a}')
    if [ $status = 0 ]; then row "$what" "$seconds" ok; else
        row "$what" "$seconds" FAILED
        failures=$((failures + 1))
        [ -z "${KEEP:-}" ] || { echo "the machine is up: vagrant ssh; exit ends it"; bash </dev/tty; }
    fi
}

# the table, then what is given, and how it went; false if a step has failed
told() {
    printf '\n'
    cat "$table"
    printf '%s\n' "$@"
    echo "$(grep -c ' ok$' "$table") passed, $failures failed"
    [ $failures = 0 ]
}
