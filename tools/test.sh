#!/usr/bin/env bash
# Every test: style, types and layers first, they are quick; then pytest, notebooks included. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/say.sh
tools/lint.sh

# The notebooks pull from the course's registry. Leave it as it was found.
running=$(tools/registry.sh status)
case $running in *"not running"*) trap 'tools/registry.sh stop' EXIT ;; esac
tools/registry.sh start

as_root "the tests make containers" env PATH="$PWD/.venv/bin:$PATH" .venv/bin/python -m pytest \
    --nbval --nbval-current-env --nbval-sanitize-with="$PWD/tests/nbval-sanitize.cfg" --nbval-cell-timeout=120 "$@"
