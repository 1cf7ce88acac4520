"""What a break-out is: a decoy on the host, an attack from inside, and an answer to "did it get out?".

Each attack succeeds against a list of parts that lacks its defence (`naive`) and fails against Docker's set
(`default`). It never touches the machine: what it wants is a decoy, made for it and taken away after it, and whether it
got out is asked of the decoy, not of the attacker.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager

from minicontainer.cgroups import Cgroup
from minicontainer.chroot import PivotRoot
from minicontainer.container import Container, Part
from minicontainer.errors import ContainerError
from minicontainer.namespaces import Namespaces
from minicontainer.security import defaults

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

VIEWS = ("pid", "uts", "ipc", "mount", "network", "cgroup")


class Outcome:
    """What an attack came to: whether it got `out`, and by what one sees that (`evidence`)."""

    def __init__(self, out: bool, evidence: str) -> None:
        self.out, self.evidence = out, evidence

    def __bool__(self) -> bool:
        return self.out

    def __repr__(self) -> str:
        return f"<{'out' if self.out else 'held'}: {self.evidence}>"


class BreakOut:
    """One way out. `rootfs` is the root to put containers in: busybox's commands are enough.

    Use it in a `with` block: the decoy is there from its beginning to its end. A decoy that was reached is used up, so
    each attempt wants a block of its own.

    >>> with ChrootEscape(rootfs) as attack:
    ...     attack(attack.naive())
    """

    title = ""
    cve = ""
    defence = ""
    """What holds it, in a few words."""

    def __init__(self, rootfs: str) -> None:
        self.rootfs = os.path.abspath(rootfs)
        self.directory = ""
        self.token = ""

    def __enter__(self) -> BreakOut:
        self.token = os.urandom(12).hex()
        self.directory = tempfile.mkdtemp(prefix="minicontainer-decoy-", dir="/var/tmp")
        os.chmod(self.directory, 0o755)
        self._clean: list[Callable[[], object]] = [lambda: shutil.rmtree(self.directory)]
        try:
            self.lay()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        while self._clean:
            self._clean.pop()()

    def afterwards(self, undo: Callable[[], object]) -> None:
        """Have this done when the `with` block ends, the last first."""
        self._clean.append(undo)

    def lay(self) -> None:
        """Lay the decoy."""
        with open(f"{self.directory}/secret", "w") as file:
            file.write(self.token)

    def naive(self) -> list[Part]:
        """Parts that lack the defence."""
        raise NotImplementedError

    def default(self) -> list[Part]:
        """Parts that have it."""
        return docker(self.rootfs)

    def __call__(self, parts: Sequence[Part]) -> Outcome:
        """Attack from a container of these parts."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------- for those who attack

    def inside(self, function: Callable[[], object], parts: Sequence[Part]) -> str:
        """Call `function` in a container; what it returns, or the error that stopped it, as text."""
        container = Container(function, *parts)
        with null() as nothing:
            try:
                container.run(stdin=nothing, stdout=nothing, stderr=nothing, timeout=30)
            except ContainerError as error:
                return error.message
        return str(container.returned)

    def stolen(self, text: str) -> Outcome:
        """It got out if it brought the decoy's token back."""
        return Outcome(self.token in text, "it read the decoy's secret" if self.token in text else _said(text))

    def written(self, path: str, text: str) -> Outcome:
        """It got out if the decoy at `path` was changed."""
        with open(path) as file:
            content = file.read()
        changed = content != self.token
        return Outcome(changed, f"the decoy says {content[:40]!r}" if changed else _said(text))


def _said(text: str) -> str:
    return text.strip()[-200:] or "it brought nothing back"


@contextmanager
def null() -> Iterator[int]:
    """A descriptor of /dev/null."""
    fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def docker(rootfs: str) -> list[Part]:
    """What `minicontainer run` gives every container, without an image and an address."""
    return [Namespaces(*VIEWS), Cgroup(), PivotRoot(rootfs), *defaults.default()]


def trying(attack: Callable[[], object]) -> str:
    """What an attack inside returns, or the error that stopped it: it must come back to tell."""
    try:
        return str(attack())
    except OSError as error:
        return f"stopped: {error}"
