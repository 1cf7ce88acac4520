#!/usr/bin/env bash
# What needs no root and no kernel: style (notebooks too), types, and who imports whom.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/say.sh
export PATH="$PWD/.venv/bin:$PATH"

say "ruff"
ruff check --quiet
ruff format --check --quiet || die "ruff would format these files differently" "run: make format"
say "mypy --strict"
mypy --no-error-summary
say "layers: a chapter imports only earlier chapters"
quietly "the layers contract is broken" lint-imports --no-logo
