"""What the fork server has ready for gateways: the models' encodings.

To build them takes more of a processor than all else that a gateway does at its start, and mitmdump always
does it. That they are loaded, and what becomes of damaged files, is for the tests in tests/tokens and for
those that start the commands themselves.
"""

from __future__ import annotations

from aoai_gateway.app import lifecycle
from tests.encodings import encodings

encodings()
lifecycle.load_encodings = lambda **_: encodings()
