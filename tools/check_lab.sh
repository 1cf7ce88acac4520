#!/usr/bin/env bash
# All checks of one lab, as nbval sees them: the learner's notebook is run from top to bottom. Not the whole suite's
# leak check: others may be at work on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/say.sh
lab=$(ls labs/"${1:-none}"-*.ipynb 2>/dev/null) || die "there is no lab '${1:-}'" "name one by its number: make check-lab LAB=02"
as_root "the labs make containers" env PATH="$PWD/.venv/bin:$PATH" MINICONTAINER_LEAK_CHECK=instance \
    .venv/bin/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=900 -q --no-header "$lab"
