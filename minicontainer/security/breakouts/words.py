"""By an image's own words: a config is a stranger's text, and somebody on the host may read into it what he likes."""

from __future__ import annotations

import subprocess

from minicontainer.container import DEVNULL, Container, Host, Part
from minicontainer.security.breakouts.frame import BreakOut, Outcome, docker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class HiddenVariable(BreakOut):
    """An engine tells a helper on the host about the container: the image's variables, with CONTAINER_ before each name
    so that none of them can be mistaken for the helper's own. If it writes them as lines, a value with a newline is
    two lines, and the second has no CONTAINER_ before it."""

    title = "a newline in an image's variable"
    defence = "words stay words: lists for execve(2) and JSON for records, never lines"

    def lay(self) -> None:
        with open(f"{self.directory}/decoy", "w") as file:
            file.write(self.token)

    def naive(self) -> list[Part]:
        return [*docker(self.rootfs), _Helper(self.env, f"{self.directory}/log", as_lines=True)]

    def default(self) -> list[Part]:
        return [*docker(self.rootfs), _Helper(self.env, f"{self.directory}/log", as_lines=False)]

    @property
    def env(self) -> dict[str, str]:
        """What the image's config says, as it arrives."""
        return {"GREETING": f"hello\nLOG={self.directory}/decoy"}

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        container = Container(["true"], *parts, env=self.env)
        container.run(stdin=DEVNULL, stdout=DEVNULL, timeout=30)
        return self.written(f"{self.directory}/decoy", "the helper wrote to its own log")


class _Helper(Part):
    """A program of the engine's on the host: it says in a log, which LOG names, that a container has begun."""

    def __init__(self, env: dict[str, str], log: str, *, as_lines: bool) -> None:
        self.env, self.log, self.as_lines = env, log, as_lines

    def attach(self, host: Host) -> None:
        env = {"LOG": self.log, **{f"CONTAINER_{name}": value for name, value in self.env.items()}}
        if self.as_lines:  # as a unit's EnvironmentFile, or a container's config of `name = value` lines
            lines = "".join(f"{name}={value}\n" for name, value in env.items())
            env = dict(line.split("=", 1) for line in lines.splitlines())
        script = 'echo "begun: $CONTAINER_GREETING" > "$LOG"'
        subprocess.run(["/bin/sh", "-c", script], env=env, stdin=subprocess.DEVNULL, check=True)
