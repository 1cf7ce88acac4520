"""Look for bytes that break a parser, with atheris: `python tools/fuzz.py TARGET SECONDS`.

libFuzzer changes what is in the corpus and keeps whatever reaches new lines, here in `.cache/fuzz/TARGET`. Bytes that
break something are printed and kept as `tests/corpus/TARGET/crash-…`: the tests replay them from then on.
"""

from __future__ import annotations

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, f"{ROOT}/tests"]

import atheris  # noqa: E402

with atheris.instrument_imports(include=["minicontainer.images", "json"]):
    import fuzzing


def main() -> None:
    target, seconds = sys.argv[1:]
    found = f"{ROOT}/.cache/fuzz/{target}"
    os.makedirs(found, exist_ok=True)
    seeds = f"{fuzzing.CORPUS}/{target}"
    limits = [f"-max_total_time={seconds}", "-max_len=8192", "-timeout=60", "-rss_limit_mb=1024", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", f"-artifact_prefix={seeds}/", found, seeds], one)
    atheris.Fuzz()


def one(data: bytes) -> None:
    fuzzing.TARGETS[sys.argv[1]](data)


if __name__ == "__main__":
    main()
