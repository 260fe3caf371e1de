"""``python -m skntk``."""

import sys

from skntk.cli import main

if __name__ == "__main__":
    sys.exit(main())
