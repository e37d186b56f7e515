"""`python -m aoai_simulator`."""

import sys

from aoai_simulator.command import main

if __name__ == "__main__":
    sys.exit(main())
