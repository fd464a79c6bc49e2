"""`python -m livemarks` is the `livemarks` command."""

import sys

from livemarks.cli import main

if __name__ == "__main__":
    sys.exit(main())
