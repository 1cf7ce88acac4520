#!/usr/bin/env bash
# All checks of one lab, as nbval sees them: the learner's notebook is run from top to bottom, as it was saved. Not the
# whole suite's leak check: others may be at work on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/say.sh
case "${1:-}" in
    *.ipynb) lab=$1 ;;
    [0-9]) lab=$(ls labs/"0$1"-*.ipynb 2>/dev/null) || lab= ;;
    *) lab=$(ls labs/"${1:-none}"-*.ipynb 2>/dev/null) || lab= ;;
esac
[ -f "$lab" ] || die "there is no lab '${1:-}'" \
    "name one by its number or its path: make check-lab LAB=02, make check-lab LAB=class/anna/02-chroot.ipynb"
color=no
if [ -t 1 ]; then color=yes; fi
as_root "the labs make containers" env PATH="$PWD/.venv/bin:$PATH" MINICONTAINER_LEAK_CHECK=instance \
    .venv/bin/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=900 -q --no-header --no-summary \
    --color="$color" -p labs.checks.report "$lab"
