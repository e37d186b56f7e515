"""`python -m aoai_gateway.simulator`."""

import sys

from aoai_gateway.simulator.command import main

if __name__ == "__main__":
    sys.exit(main())
