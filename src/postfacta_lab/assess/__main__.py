"""The command `postfacta assess` as `python -m postfacta_lab.assess`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
