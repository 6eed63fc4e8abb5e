"""`python -m distgrad` is `distgrad`."""

import sys

from distgrad.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
