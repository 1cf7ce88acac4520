#!/usr/bin/env bash
# Write requirements.txt anew: every version that .venv gets, for all extras. Resolved with Debian's own Python 3.11,
# the oldest we support, so that nothing is picked that it refuses. Arguments go to pip-compile (--upgrade).
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
"${PYTHON:-/usr/bin/python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check pip-tools
# without the --no-emit options the index addresses of the machine it ran on would stand in the file
CUSTOM_COMPILE_COMMAND="tools/lock.sh" "$venv/bin/pip-compile" --quiet --all-extras --allow-unsafe --strip-extras \
    --no-emit-index-url --no-emit-find-links --output-file requirements.txt "$@" pyproject.toml
