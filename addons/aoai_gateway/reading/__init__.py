"""Reading large bodies, in a process of its own.

Theory of operation. Python's JSON decoder holds the interpreter's lock from the first byte to the last, and
freeing what it has made holds it once more: a body of 5 MB can stop everything else in the process for half
a second, on whatever thread it is decoded. So a large body goes through a pipe to a worker process, and
only what is small comes back: the facts and its short members, or the sample of its texts that is counted.

    jobs     what is asked of the worker, and how that is done
    worker   the process: one job after another until its input ends
    reader   the gateway's side: starts the worker when it is first needed, and again when it died

The worker knows no secret: it is given no configuration, and an environment with nothing in it but where its
modules are. A body that takes it down, with its memory for one, takes nobody else's call with it.
"""
