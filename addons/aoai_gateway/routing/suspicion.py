"""Suspicion: a failure that one call may have caused itself, until a second call bears witness.

A break keeps every client away from a backend. So it takes evidence that no single call can make up:

- *Some failures are proof by themselves.* No content of a call makes a connection fail, a TLS handshake, or
  Azure refuse the gateway's own key; nor does it make a backend throttle. These break at once, and are
  witnesses of later failures: a probe that fails after them needs no other.
- *All others may be the call's own work*: a firewall answers 403 to a prompt that looks like SQL, a prompt
  crashes a model server (500, a dropped connection), a proxy gives up on a long one (502, 504). The first one
  is a suspicion: the call goes on to the next backend, and nothing changes for others.
- *A second client's call that fails the same way is a witness.* The backend is then in a break for all. A
  real outage thus costs one call more, which is replayed like the first.
- *A second call of the same client, with other content*, convinces that client only: the break is its own.
  Where there is but one client, the two are the same. The same content again shows nothing new: SDKs retry.
- *An answer acquits.* A call that was sent after the failure and answered shows that the backend works.
- *A call that leaves takes its word with it*, and so does one that fails in the same way elsewhere.

Witnesses are remembered longer than breaks last, so that a probe that fails needs no second one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aoai_gateway.routing.recovery import Scope

REMEMBERED_SECONDS = 300.0
"""How long a failure bears witness, if no answer refutes it."""

MOST_WITNESSES = 16
"""The witnesses against one backend that are remembered; two are enough."""


class Finding(Enum):
    """The conclusion from a failure, together with those before it."""

    SUSPICION = auto()
    """Nothing yet."""
    FOR_CLIENT = auto()
    """The backend fails this client with any content."""
    FOR_ALL = auto()


@dataclass(frozen=True, slots=True)
class Witness:
    """A call that failed. ``content``: a digest of its body; ``at``: the time on the caller's clock."""

    call_id: str
    client: str
    content: bytes
    at: float
    proof: bool = False
    """Whether the failure is proof by itself."""


class Suspicions:
    """The failures that are held against backends, by scope and by the way in which they failed."""

    def __init__(self) -> None:
        self.witnesses: dict[tuple[Scope, str], list[Witness]] = {}
        """By scope and way of failing, the oldest first; without any, nothing is held against a backend."""

    def hear(self, scope: Scope, way: str, witness: Witness) -> Finding:
        """Take in a failure. ``way``: failures of the same way confirm each other."""
        since = witness.at - REMEMBERED_SECONDS
        known = [w for w in self.witnesses.get((scope, way), ()) if w.at > since]
        proven = [w for w in self.witnesses.get(((scope[0], None), way), ()) if w.proof and w.at > since]
        others = bool(proven) or any(w.client != witness.client or w.proof for w in known)
        own = [w.content for w in known if w.client == witness.client]
        if witness.content not in own:
            known.append(witness)
        self.witnesses[scope, way] = known[-MOST_WITNESSES:]
        if witness.proof or (others and witness.content not in own):
            return Finding.FOR_ALL
        return Finding.FOR_CLIENT if any(content != witness.content for content in own) else Finding.SUSPICION

    def withdraw(self, call_id: str) -> None:
        """Forget what a call witnessed: it left, or it turned out to be the cause."""
        for key, witnesses in list(self.witnesses.items()):
            self._keep(key, [w for w in witnesses if w.call_id != call_id])

    def acquit(self, endpoint: str, standin: str, sent: float) -> None:
        """Forget failures from before the time at which a call was sent that has been answered."""
        for key, witnesses in list(self.witnesses.items()):
            if key[0] in ((endpoint, standin), (endpoint, None)):
                self._keep(key, [w for w in witnesses if w.at > sent])

    def _keep(self, key: tuple[Scope, str], witnesses: list[Witness]) -> None:
        if witnesses:
            self.witnesses[key] = witnesses
        else:
            del self.witnesses[key]
