"""Which backend next: the backends of a pool, their breaks, their order, and the calls bound to one of them.

Everything in here is a plain object in memory without a clock of its own: the present time is an
argument (seconds on any monotonic scale, the same one for all calls), and so is randomness.
"""
