#!/usr/bin/env bash
# JupyterLab on the notebooks and the labs, for this machine only, behind a token. Its own settings stay in .jupyter/.
#
#     PORT=8888        the first port to try
#     LAB_DIR=…        what it serves, in place of this folder: a learner's own copy of notebooks/ and labs/
#     LAB_IP=0.0.0.0   the address it listens on: in a virtual machine the host's requests come by its network card
#     LAB_HOME=…       where its settings and the token are, in place of .jupyter/: a second server has its own
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/say.sh

home=${LAB_HOME:-$PWD/.jupyter}
serve=${LAB_DIR:-$PWD}
mkdir -p "$home/config"
if [ ! -s "$home/token" ]; then
    (umask 077 && od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$home/token")
fi
token=$(cat "$home/token")
# in a file, because everyone on the machine may read a command line
#
# The browser's file list shows notebooks/, labs/ and minicontainer/. What is hidden from a learner's sight is only not
# listed: whoever knows its address can open it.
(umask 077 && cat >"$home/config/jupyter_server_config.json" <<JSON
{
  "IdentityProvider": {"token": "$token"},
  "ContentsManager": {"hide_globs": [
    "__pycache__", "*.pyc", "*~", "tests", "tools", "bench", "conftest.py", "Makefile", "pyproject.toml",
    "requirements.txt", "CONTRIBUTING.md", "CLAIMS.md", "checks", "solutions", "wrong"
  ]}
}
JSON
)

link() { printf 'http://127.0.0.1:%s/lab/tree/notebooks/00-start-here.ipynb?token=%s' "$1" "$token"; }
answers() { curl --silent --fail --noproxy '*' --max-time 5 --output /dev/null "http://127.0.0.1:$1/api/status?token=$token"; }
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

port=${PORT:-8888}
while taken "$port"; do
    if answers "$port"; then
        say "JupyterLab is running already. Open: $(link "$port")"
        exit 0
    fi
    [ "$port" -lt 8988 ] || die "no free port from ${PORT:-8888} to $port" "name one: make lab PORT=9999"
    port=$((port + 1))
done

say "JupyterLab starts. Open: $(link "$port")"
say "Ctrl-C ends it"
# The kernels make containers, so the server runs as root, with nothing in root's or anyone's home.
as_root "the notebooks make containers" env \
    PATH="$PWD/.venv/bin:$PATH" IPYTHONDIR="$home/ipython" \
    JUPYTER_CONFIG_DIR="$home/config" JUPYTER_DATA_DIR="$home/data" JUPYTER_RUNTIME_DIR="$home/runtime" \
    "$PWD/.venv/bin/jupyter" lab --allow-root --no-browser --ip "${LAB_IP:-127.0.0.1}" --port "$port" \
    --ServerApp.port_retries=0 --ServerApp.root_dir="$serve" --log-level=WARN
