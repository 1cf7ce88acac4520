"""Small C programs for questions that no command answers: what a call returns, who a setuid program runs as."""

from __future__ import annotations

import shutil
import subprocess

CALL = """
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/syscall.h>
int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {      /* "number,argument,argument,…": the errno it ends with */
        long a[7] = {0};
        char *at = argv[i];
        for (int n = 0; n < 7 && *at; n++) { a[n] = strtol(at, &at, 0); if (*at == ',') at++; }
        errno = 0;
        syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
        printf("%d\\n", errno);
        fflush(stdout);
    }
    return 0;
}
"""
WHO = """
#include <stdio.h>
#include <unistd.h>
int main(void) { printf("%d %d\\n", getuid(), geteuid()); return 0; }
"""


def build(source: str, path: str) -> str:
    """Compile it, statically, to `path`."""
    assert shutil.which("gcc"), "gcc belongs to what `make test` installs"
    subprocess.run(["gcc", "-static", "-O1", "-x", "c", "-", "-o", path], input=source.encode(), check=True)
    return path
