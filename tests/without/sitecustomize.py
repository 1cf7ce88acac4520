"""Takes one kind of part out of every container that a program makes: that named by MINICONTAINER_WITHOUT.

Python imports this by itself when it starts, where PYTHONPATH leads here. Whatever makes a container (a cell, `child`,
`Image.container`, the command line) goes through `Container.__init__`.

An Overlay is also what brings the files: without it nothing could start, and any assertion would seem to be about it.
So `Plain` stands where it stood: the same files, in a directory like any other.
"""

import os
import shutil

WITHOUT = os.environ.get("MINICONTAINER_WITHOUT", "")

if WITHOUT:
    from minicontainer import linux
    from minicontainer.container import Container
    from minicontainer.container.part import Part

    class Plain(Part):
        """The uppermost layer itself is the root, with the files of those below copied into it where it has none."""

        def __init__(self, layers):
            self.layers = layers

        def prepare(self, host):
            *below, top = self.layers
            for layer in reversed(below):
                if not os.path.exists(mark := f"{top.rstrip('/')}.has-{os.path.basename(layer.rstrip('/'))}"):
                    _add(layer, top)
                    open(mark, "x").close()

        def mount(self, inside):
            inside.rootfs = self.layers[-1]
            linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
            linux.mount(inside.rootfs, inside.rootfs, flags=linux.MS_BIND)

    Plain.namespaces = linux.CLONE_NEWNS

    def _add(source, target):
        for entry in os.scandir(source):
            place = f"{target}/{entry.name}"
            if entry.is_dir(follow_symlinks=False) and (os.path.isdir(place) or not os.path.lexists(place)):
                if not os.path.lexists(place):
                    os.mkdir(place)
                    shutil.copystat(entry.path, place)
                _add(entry.path, place)
            elif not os.path.lexists(place) and (entry.is_file() or entry.is_symlink()):
                shutil.copy2(entry.path, place, follow_symlinks=False)

    def _left(part):
        if WITHOUT not in [kind.__name__ for kind in type(part).__mro__]:
            return [part]
        return [Plain(part.layers)] if WITHOUT == "Overlay" else []

    _as_it_is = Container.__init__

    def _without(self, argv, *parts, **rest):
        _as_it_is(self, argv, *[it for part in parts for it in _left(part)], **rest)

    Container.__init__ = _without
