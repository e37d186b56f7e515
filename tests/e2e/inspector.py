"""A gateway inside mitmweb, driven by mitmweb's own REST interface as its page does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.processes import CHECKOUT, SCRIPTS, Answer, Gateway, Simulator, request
from tests.e2e.settings import SPEC, configuration
from tests.ports import free_port

PASSWORD = "inspector-password-41"


class Inspector(Gateway):
    """mitmweb with the gateway in it."""

    def __init__(self, config: Mapping[str, Any], folder: Path, **how: Any) -> None:
        """Start it; see `Gateway` for the arguments."""
        self.web_port = free_port()
        # A copy, which a test can save again.
        self.script = folder / "gateway.py"
        shutil.copyfile(CHECKOUT / "addons" / "gateway.py", self.script)
        super().__init__("mitmdump", config, folder, **how)

    def _command(self, scripts: Sequence[str | Path]) -> list[str | Path]:
        settings = {
            "gateway_config": self.config_path,
            "store_streamed_bodies": "true",
            "web_open_browser": "false",
            "web_port": self.web_port,
            "web_password": PASSWORD,
        }
        words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        return [
            SCRIPTS / "mitmweb", "-s", self.script, *scripts, *words,
            "--listen-host", "127.0.0.1", "--listen-port", str(self.port),
        ]  # fmt: skip

    # --- what a person does ------------------------------------------------------------------------

    def api(self, method: str, path: str, json_body: Any = None) -> Answer:
        """Ask mitmweb; fails unless it does as told."""
        token = "5e" * 16  # any will do that is the same in header and cookie
        headers = {
            "authorization": f"Bearer {PASSWORD}",
            "x-xsrftoken": token,
            "cookie": f"_mitmproxy_xsrf={token}",
        }
        where = f"http://127.0.0.1:{self.web_port}{path}"
        answer = request(where, method, headers=headers, json_body=json_body, seconds=60)
        assert answer.status < 300, f"{method} {path}: {answer.status} {answer.body!r}\n{self.log}"
        return answer

    def flows(self) -> list[dict[str, Any]]:
        """Return the flow list as the page gets it."""
        return self.api("GET", "/flows").json()  # type: ignore[no-any-return]

    def flow(self, ident: str) -> dict[str, Any]:
        """Return one flow of the list."""
        (found,) = [flow for flow in self.flows() if flow["id"] == ident]
        return found

    def await_flow(self, fits: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        """Wait until a flow fits, and give it; of several, the latest."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = [flow for flow in self.flows() if fits(flow)]
            return bool(found)

        self.wait_until(is_there, f"showing {what}")
        return found[-1]

    def held(self) -> dict[str, Any]:
        """Wait until a flow is held, and give it."""
        return self.await_flow(lambda flow: flow["intercepted"], "a flow that is held")

    def intercept(self, expression: str | None) -> None:
        """Set the filter for what is to be held."""
        self.api("PUT", "/options", {"intercept": expression})

    def content(self, ident: str, part: str) -> bytes:
        """Return the body of a flow's ``request`` or ``response``."""
        return self.api("GET", f"/flows/{ident}/{part}/content.data").body

    def edit(self, ident: str, **parts: Mapping[str, Any]) -> None:
        """Edit a flow: ``request={"content": "…"}``."""
        self.api("PUT", f"/flows/{ident}", parts)

    def resume(self, ident: str) -> None:
        """Let a held flow go."""
        self.api("POST", f"/flows/{ident}/resume")

    def kill_flow(self, ident: str) -> None:
        """End a flow."""
        self.api("POST", f"/flows/{ident}/kill")


@contextmanager
def inspecting(
    folder: Path,
    home: Path,
    *,
    spec: Mapping[str, Any] = SPEC,
    options: Sequence[str | Path] = (),
    **sections: Any,
) -> Iterator[tuple[Inspector, Simulator]]:
    """Run a gateway inside mitmweb before a simulator; at the end it must stop in an orderly way."""
    simulator = Simulator(spec, folder)
    try:
        config = configuration(simulator.urls, simulator.keys, **sections)
        inspector = Inspector(config, folder, home=home, arguments=options)
        try:
            yield inspector, simulator
            code = inspector.stop()
            assert code == 0, f"mitmweb ended with {code} after SIGTERM\n{inspector.log}"
        finally:
            inspector.kill()
    finally:
        simulator.kill()
