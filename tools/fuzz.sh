#!/usr/bin/env bash
# Fuzz the parsers of what arrives from registries: hypothesis with many examples, then atheris, SECONDS (60) a target.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/say.sh
seconds=${1:-60}

say "hypothesis: what it has thought of before, and more"
export FUZZ_EXAMPLES=$((seconds * 100))
as_root "the tests make containers" env FUZZ_EXAMPLES="$FUZZ_EXAMPLES" .venv/bin/python -m pytest -q tests/test_images_fuzz.py

# atheris is for this alone, so it lives in an environment of its own, beside that of the course
python=.cache/fuzz/venv/bin/python
if [ ! -x "$python" ]; then
    .venv/bin/python -m venv .cache/fuzz/venv
    quietly "pip could not install atheris: only hypothesis has searched" \
        .cache/fuzz/venv/bin/pip install --disable-pip-version-check atheris isal backports.zstd
fi
spent=.cache/fuzz/seconds
for target in reference challenge manifest index config tar layer archive; do
    say "atheris: $target, $seconds seconds"
    "$python" tools/fuzz.py "$target" "$seconds"
    echo "$seconds" >>"$spent"
done
say "atheris has searched for $(awk '{ sum += $1 } END { printf "%.1f", sum / 3600 }' "$spent") hours here so far"
