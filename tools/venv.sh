#!/usr/bin/env bash
# The virtual environment .venv: the versions of requirements.txt, and this package as it stands here.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/say.sh

# Nothing to do? The stamp says what the environment was made from.
stamp=.venv/made-from
made_from() { { pwd -P; .venv/bin/python -V; cat requirements.txt tools/venv.sh minicontainer/runtime/installed/bin/*
    sed "/^\\[tool/,\$d" pyproject.toml; } 2>&1 | sha256sum; }
if [ -f "$stamp" ] && [ "$(made_from)" = "$(cat "$stamp")" ]; then exit 0; fi

# The distribution's own Python first: a version manager's shim in front of it costs 100 ms at every start.
usable() { "$1" -I -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
python=
for candidate in ${PYTHON:-/usr/bin/python3 python3.13 python3.12 python3.11 python3}; do
    if usable "$candidate"; then python=$candidate; break; fi
done
[ -n "$python" ] || die "no Python 3.11 or newer that can make virtual environments" \
    "install python3.11 (or newer) with its venv package, and name it: make PYTHON=/path/to/python3.11 …"

say "making .venv with $("$python" -V) ($python): about a minute"
rm -f "$stamp"
"$python" -m venv --clear .venv
pip=(.venv/bin/pip install --disable-pip-version-check --root-user-action=ignore)
quietly "pip could not install requirements.txt" "${pip[@]}" -r requirements.txt
# Editable without a build environment, so that this works offline. flit links by a plain path in a .pth file: what
# makes a finder of its own there would cost every start of the interpreter some milliseconds.
quietly "pip could not install this package" "${pip[@]}" --no-deps --no-build-isolation --editable .
# For the same reason: two hooks that run at every start, for packages that only a build needs.
rm -f .venv/lib/python3*/site-packages/{distutils-precedence,a1_coverage}.pth

# JupyterLab asks the network for news otherwise, with a popup above the notebook.
mkdir -p .venv/share/jupyter/lab/settings
cat >.venv/share/jupyter/lab/settings/overrides.json <<'JSON'
{"@jupyterlab/apputils-extension:notification": {"checkForUpdates": false, "fetchNews": "false"}}
JSON
made_from >"$stamp"
