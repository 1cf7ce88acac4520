"""The modules of a start, all in one file.

Python looks for each module in every place where it could be, and reads it from a file of its own: fifty times a dozen
system calls, and as often through all of the import system. That is more than half of what importing takes. So what
one start had to look for, it writes down for the next, beside the kept interpreter (`sealed`): the compiled code in
`modules`, and what finds it there in `start.pyc`, which Python is then started with. And those that the same verb has
imported before are there before it asks.

Nobody has to know: an entry holds for a file of the same time and size, as a .pyc does, or it is looked for again.
"""

from __future__ import annotations

import gc
import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec  # `importlib.machinery` would be one module more
from _frozen_importlib_external import MAGIC_NUMBER, ExtensionFileLoader, SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType
    from typing import NoReturn

    Entry = tuple[str, int, int, bool, int, int]

START, MODULES = "start.pyc", "modules"
_ANNOTATIONS = "from __future__ import annotations"
_OURS = "minicontainer"
NONE = -1
"""For the length of a module's code: it is a library, loaded from where it is."""


class Together:
    """A finder and a loader in one, for what a directory's `modules` has. PEP 302

    Made for the package in the directory `top`. Its index: name → (file, when that was changed in ns, its size, is it a
    package, where its code is, its length). And verb → the names of what it imports, each after what it needs itself.
    Raises OSError, and EOFError, ValueError or TypeError for a file that is none, or of a package somewhere else.
    """

    def __init__(self, directory: str, top: str) -> None:
        self.fd = posix.open(f"{directory}/{MODULES}", posix.O_RDONLY | posix.O_CLOEXEC)
        length = int.from_bytes(posix.read(self.fd, 4), "little")
        self.index: dict[str, Entry]
        self.verbs: dict[str, list[str]]
        self.head = posix.read(self.fd, length)
        its, self.index, self.verbs = marshal.loads(self.head)
        if its != top:
            raise ValueError(f"{directory}/{MODULES} is for {its}, not for {top}")
        self.begin = 4 + length
        self.missed = False

    def holds(self, name: str) -> bool:
        """Whether there is such a module, and its file has not changed."""
        if name in self.index:
            file, time, size, *_ = self.index[name]
            try:
                status = posix.stat(file)
            except OSError:
                status = None
            if status and status.st_mtime_ns == time and status.st_size == size:
                return True
            del self.index[name]
        self.missed = True
        return False

    def bring(self, verb: str) -> None:
        """Import what this verb imports, without asking the import system, which takes 20 µs for each.

        All are there by name before the first is executed: modules find their package, which comes after them. Should
        one of them need more of another than is there yet, they are left for whoever asks for them.
        """
        names = self.verbs.get(verb, [])
        if not all(self.holds(name) for name in names):
            del self.verbs[verb]
            return
        try:
            for name in names:
                file, _, _, package, _, length = self.index[name]
                if length != NONE:
                    sys.modules[name] = module = type(sys)(name)
                    module.__file__, module.__package__ = file, name if package else name.rpartition(".")[0]
                    if package:
                        module.__path__ = [file.rpartition("/")[0]]
            for name in names:
                if self.index[name][-1] == NONE:
                    __import__(name)
                else:
                    exec(marshal.loads(self.code(name)), sys.modules[name].__dict__)
                parent, _, child = name.rpartition(".")
                if parent:
                    setattr(sys.modules[parent], child, sys.modules[name])
        except (ImportError, NameError, AttributeError):
            for name in names:
                sys.modules.pop(name, None)
            self.verbs[verb] = []
            self.missed = True

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if not self.holds(name):
            return None
        file, _, _, package, _, length = self.index[name]
        if length == NONE:
            return ModuleSpec(name, ExtensionFileLoader(name, file), origin=file)
        spec = ModuleSpec(name, self, origin=file, is_package=package)  # type: ignore[arg-type]
        spec.has_location = True  # so its origin becomes the module's __file__
        if package:
            spec.submodule_search_locations = [file.rpartition("/")[0]]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """As for any module."""

    def exec_module(self, module: ModuleType) -> None:
        exec(marshal.loads(self.code(module.__name__)), module.__dict__)

    def code(self, name: str) -> bytes:
        """A module's compiled code."""
        *_, at, length = self.index[name]
        return posix.pread(self.fd, length, self.begin + at) if length != NONE else b""


def begin(directory: str) -> NoReturn:
    """What `start.pyc` does: the runtime's program, with the modules of `directory` as far as they go."""
    gc.disable()  # as in __main__
    sys.path[0] = top = _top()
    together: Together | None = None
    try:
        together = Together(directory, top)
    except (OSError, EOFError, ValueError, TypeError):
        pass  # all are looked for, and written down again
    else:
        sys.meta_path.insert(-1, together)  # after what is built into the interpreter
        together.bring(_verb(together.verbs))
    from minicontainer.runtime.cli import main

    end(main(), directory, together)


def end(code: int, directory: str, together: Together | None = None) -> NoReturn:
    """Write down what had to be looked for, if there is a directory for that, and end the program."""
    sys.stdout.flush()
    from minicontainer.runtime.cli import VERBS

    verb = _verb(VERBS)
    if directory and (together is None or together.missed or verb not in together.verbs):
        try:
            keep(directory, together, verb)
        except OSError:
            pass  # no room, or no place for us: the next start takes as long as this one, and that is all
    posix._exit(code)  # nothing is left to tidy, and the interpreter's own end costs a millisecond or two


def _top() -> str:
    """The directory that has the package, by the path that the script which starts us knows it by."""
    return str(sys._xoptions["main"]).rsplit("/", 3)[0]


def _verb(known: Iterable[str]) -> str:
    """Which of them the command line names; a guess, and enough for what is only sooner or later."""
    return next((word for word in sys.argv if word in known), "")


def keep(directory: str, together: Together | None, verb: str) -> None:
    """Add what this process has looked for to what it had together, and what this verb imports. Raises OSError."""
    from minicontainer import state

    index: dict[str, Entry] = {}
    codes: list[bytes] = []
    size = 0

    def add(name: str, entry: tuple[str, int, int, bool], code: bytes) -> None:
        nonlocal size
        index[name] = (*entry, size, len(code) or NONE)
        codes.append(code)
        size += len(code)

    if together:
        for name, entry in together.index.items():
            add(name, entry[:4], together.code(name))
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if name in index or name.startswith("encodings") or spec is None:
            continue
        if isinstance(spec.loader, (SourceFileLoader, ExtensionFileLoader)) and spec.origin:
            status = posix.stat(spec.origin)  # before it is read: a change since then is one that the next start sees
            code = spec.loader.get_code(name)
            package = spec.submodule_search_locations is not None
            add(name, (spec.origin, status.st_mtime_ns, status.st_size, package), marshal.dumps(code) if code else b"")
    verbs = dict(together.verbs) if together else {}
    # in the order in which their imports have ended; a circle (ctypes has one) is not for `bring`
    ours = [name for name in sys.modules if name in index and (name.startswith(_OURS) or index[name][-1] == NONE)]
    verbs.setdefault(verb, [name for name in ours if name != keep.__module__])
    if together and marshal.loads(together.head) == (_top(), index, verbs):
        return  # what was missed is nowhere
    head = marshal.dumps((_top(), index, verbs))
    state.write_file(f"{directory}/{MODULES}", len(head).to_bytes(4, "little") + head + b"".join(codes))
    here = keep.__code__.co_filename  # `start.pyc` has another __file__
    with open(here) as file:
        source = file.read().replace(_ANNOTATIONS, "#", 1)  # that import would be looked for: a flag says the same
    flag = sys.modules["__future__"].annotations.compiler_flag
    start = compile(f"{source}\nbegin({directory!r})\n", here, "exec", flag)
    state.write_file(f"{directory}/{START}", MAGIC_NUMBER + bytes(12) + marshal.dumps(start))
