"""`python -I -S …/minicontainer/runtime`: started by its path, with nothing imported that is not needed."""

import gc
import os
import sys

if not __package__:
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from minicontainer.runtime import sealed

if __name__ == "__main__":
    gc.disable()  # what a verb makes in its few milliseconds goes with it; to look for circles takes a tenth of them
    if not sealed.ENTERING.isdisjoint(sys.argv):
        sealed.ensure()
    from minicontainer.runtime import together
    from minicontainer.runtime.cli import main

    together.end(main(), sealed.kept())
