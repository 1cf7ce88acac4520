"""Takes one kind of part out of every container that a program makes: that named by MINICONTAINER_WITHOUT.

Python imports this by itself when it starts, where PYTHONPATH leads here. Whatever makes a container (a cell, `child`,
`Image.container`, the command line) goes through `Container.__init__`.
"""

import os

WITHOUT = os.environ.get("MINICONTAINER_WITHOUT", "")

if WITHOUT:
    from minicontainer.container import Container

    _as_it_is = Container.__init__

    def _without(self, argv, *parts, **rest):
        left = [part for part in parts if WITHOUT not in [kind.__name__ for kind in type(part).__mro__]]
        _as_it_is(self, argv, *left, **rest)

    Container.__init__ = _without
