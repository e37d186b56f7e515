"""A port that never answers: connecting to it is neither accepted nor refused.

Linux drops the SYN of a new connection while the accept queue of a listening socket is full. So a black
hole listens with the smallest queue and fills it with a connection of its own.
"""

from __future__ import annotations

import select
import socket

_PROOF_SECONDS = 0.05
_MAX_FILLERS = 8


class BlackHole:
    """A port that swallows connection attempts until it is closed, or released.

    `bound` is its socket, which is bound and does not listen. Raises OSError where the system cannot do it.
    """

    def __init__(self, bound: socket.socket) -> None:
        self._socket = bound
        self._fillers: list[socket.socket] = []
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        try:
            self._socket.listen(0)
            self._fill()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the port up."""
        self.release().close()

    def release(self) -> socket.socket:
        """End the black hole and hand over its socket, still listening."""
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
        return self._socket

    def _fill(self) -> None:
        """Connect until a connection is not answered any more."""
        for _ in range(_MAX_FILLERS):
            filler = socket.socket(self._socket.family, socket.SOCK_STREAM)
            filler.setblocking(False)
            filler.connect_ex(self.address)
            if not select.select([], [filler], [], _PROOF_SECONDS)[1]:
                filler.close()
                return
            self._fillers.append(filler)
        raise OSError("this system accepts connections beyond a full queue: no black hole here")


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound and does not listen: connections to it are refused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)
        bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    return bound
