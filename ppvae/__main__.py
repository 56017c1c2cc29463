r"""`python -m ppvae` is the command line."""

import sys

from ppvae.cli import main

if __name__ == "__main__":
    sys.exit(main())
