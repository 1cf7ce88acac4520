#!/usr/bin/env bash
# The tests that look at the course as a learner does: in a browser, on the JupyterLab that `make lab` starts. Arguments
# go to pytest. What it looked like stays in .cache/browser, as pictures.
#
#     CHROMIUM=/path      the browser, in place of Debian's
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/say.sh

# letters, and the ticks, arrows and crosses of the course's drawings
need=()
[ -n "${CHROMIUM:-}" ] || [ -x /usr/bin/chromium ] || need+=(chromium)
[ -d /usr/share/fonts/truetype/dejavu ] || need+=(fonts-dejavu-core)
if [ ${#need[@]} -gt 0 ]; then
    say "installing ${need[*]}"
    apt() { as_root "a browser" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@"; }
    quietly "apt-get update failed" apt update
    quietly "apt-get could not install ${need[*]}" apt install -y --no-install-recommends "${need[@]}"
fi
export CHROMIUM=${CHROMIUM:-/usr/bin/chromium}
# where a distribution has it as a snap, the package holds no browser
"$CHROMIUM" --version >/dev/null 2>&1 </dev/null || die "$CHROMIUM does not run" "name one that does: CHROMIUM=/path make test-browser"

running=$(tools/registry.sh status)
case $running in *"not running"*) trap 'tools/registry.sh stop' EXIT ;; esac
tools/registry.sh start

[ $# -gt 0 ] || set -- tests/browser
as_root "the notebooks make containers" env PATH="$PWD/.venv/bin:$PATH" CHROMIUM="$CHROMIUM" \
    .venv/bin/python -m pytest "$@"
