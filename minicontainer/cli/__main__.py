"""`python -m minicontainer.cli`."""

import sys

from minicontainer.cli import main

if __name__ == "__main__":
    sys.exit(main())
