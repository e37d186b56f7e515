"""How many tokens a request is, before a backend has served it.

Quotas reserve tokens at admission, so the count has to be there before the backend's. It is made
offline, with tiktoken's engine and rank files that are already on the machine:

    ranks       rank files -> tiktoken encodings; the only part that reads files, never the network
    models      what is published per model: encoding, framing, image rule, the longest answer
    text        texts -> tokens, in bounded time for any text
    images      an image -> tokens, from the dimensions in its header
    prompt      the texts of a request, plus the tokens of its framing and its tools
    bodies      which request has what
    counting    all together: `Counter`; and what returned usage teaches: `Correction`

A `Counter` is usable from the first request on: until the rank files are loaded (some tenths of a
second, in a thread) it estimates, and marks the count (`Count.exact`).
"""

from aoai_gateway.tokens.counting import Correction, Count, Counter, cost_hint
from aoai_gateway.tokens.ranks import Encodings, load_encodings

__all__ = ["Correction", "Count", "Counter", "Encodings", "cost_hint", "load_encodings"]
