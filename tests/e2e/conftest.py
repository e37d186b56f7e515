"""Fixtures that start real processes, and the real SDKs to speak to them."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import openai
import pytest

from tests.e2e import certificates
from tests.e2e.processes import Gateway, Host, Process, Simulator
from tests.e2e.settings import API_VERSION, CLIENT_KEY, SPEC, configuration
from tests.npm import install
from tests.programs import require

Kind = Literal["azure", "v1"]
NODE_FOLDER = Path(__file__).parent / "node"


HOSTS: tuple[Host, ...] = ("serve", "mitmdump")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what takes a `host` on the lean one, and on mitmdump too where the mark ``each_host`` says so.

    Nearly all of the gateway is the same in both, and to start processes is what takes time here. What each
    of them has to show is that it feeds the same code; what they do differently is tested on both.
    """
    marks = metafunc.definition.iter_markers("parametrize")
    if "host" in metafunc.fixturenames and not any("host" in str(mark.args[0]).split(",") for mark in marks):
        hosts = HOSTS if metafunc.definition.get_closest_marker("each_host") else HOSTS[:1]
        # Tests with the same host are kept together, for what is shared to be started once for each.
        scope: Literal["session", "module"]
        scope = "session" if "shared_stage" in metafunc.fixturenames else "module"
        metafunc.parametrize("host", hosts, indirect=True, scope=scope)


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest) -> Host:
    """What the gateway runs in, see `pytest_generate_tests`; a test may parametrise it itself."""
    return request.param  # type: ignore[no-any-return]  # pytest types it as Any


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> certificates.Certificates:
    """An authority of our own and a certificate for loopback."""
    return certificates.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder for all gateways: empty, but for mitmproxy's authority once one of them has made it."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def same_day() -> None:
    """Begin no sooner than tomorrow when it is nearly midnight in UTC, where budgets of a day begin anew."""
    left = 86_400 - time.time() % 86_400
    if left < 60:
        time.sleep(left)


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """What a test has started: shown when it fails, and gone when it ends."""
    started: list[Process] = []
    yield started
    for process in reversed(started):
        process.kill()
    for process in started:
        print(process.log)


@pytest.fixture
def start_simulator(tmp_path: Path, processes: list[Process]) -> Callable[..., Simulator]:
    """Return a function that starts a simulator: ``(spec=SPEC, *, name=…, tls=None, arguments=())``."""

    def start(
        spec: Mapping[str, Any] = SPEC,
        *,
        name: str = "simulator",
        tls: certificates.Certificates | None = None,
        arguments: Sequence[str | Path] = (),
    ) -> Simulator:
        words = [*arguments]
        if tls:
            words += ["--tls-cert", tls.certificate, "--tls-key", tls.private_key]
        simulator = Simulator(spec, tmp_path, name=name, arguments=words, ca=tls.ca if tls else None)
        processes.append(simulator)
        return simulator

    return start


@pytest.fixture(scope="session")
def simulator_of_the_setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    simulator = Simulator(SPEC, tmp_path_factory.mktemp("simulator"))
    yield simulator
    simulator.kill()


@pytest.fixture
def simulator(simulator_of_the_setting: Simulator) -> Simulator:
    """The setting's two endpoints, as if they had just been started; a test must not end the process."""
    simulator_of_the_setting.reset()
    return simulator_of_the_setting


@pytest.fixture
def start_gateway(
    tmp_path: Path, home: Path, processes: list[Process], host: Host
) -> Iterator[Callable[..., Gateway]]:
    """Return a function that starts a gateway on the `host` before a simulator.

    Its arguments: the simulator, sections of the configuration by name (``replay={…}``, see
    `configuration`), and ``config`` (the whole of it instead), ``name``, ``tls``, ``addons`` (scripts),
    ``options`` (mitmproxy's), ``env``, ``wait``, ``forked``. A gateway that still runs when the test is
    over must end by SIGTERM, with exit code 0.
    """
    started: list[Gateway] = []

    def start(
        simulator: Simulator | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        name: str = "gateway",
        tls: certificates.Certificates | None = None,
        addons: Sequence[Path] = (),
        options: Sequence[str | Path] = (),
        env: Mapping[str, str] | None = None,
        wait: bool = True,
        forked: bool = True,
        **sections: Any,
    ) -> Gateway:
        if config is None:
            assert simulator is not None, "start_gateway takes a simulator or a whole config"
            if tls:
                paths = {"certificate": str(tls.certificate), "private_key": str(tls.private_key)}
                sections["listen"] = {**paths, **sections.get("listen", {})}
            if simulator.ca:
                sections["aoai"] = {"trusted_ca": str(simulator.ca), **sections.get("aoai", {})}
            config = configuration(simulator.urls, simulator.keys, **sections)
        gateway = Gateway(
            host,
            config,
            tmp_path,
            home=home,
            name=name,
            addons=addons,
            arguments=options,
            env=env,
            ca=tls.ca if tls else None,
            wait=wait,
            forked=forked,
        )
        processes.append(gateway)
        started.append(gateway)
        return gateway

    yield start
    for gateway in started:
        if gateway.exit_code is None:
            code = gateway.stop()
            assert code == 0, f"{gateway.name} ended with {code} after SIGTERM\n{gateway.log}"


@pytest.fixture
def gateway(start_gateway: Callable[..., Gateway], simulator: Simulator) -> Gateway:
    """A gateway before the setting's two endpoints, on each host."""
    return start_gateway(simulator)


class Server(Protocol):
    """What an SDK can be pointed at."""

    url: str
    ca: Path | None


class Sdk:
    """Makes clients of the real SDK that neither retry nor take a detour; they are closed with the test."""

    def __init__(self) -> None:
        self._made: list[openai.OpenAI] = []

    def __call__(
        self, server: Server, kind: Kind = "v1", *, key: str = CLIENT_KEY, **options: Any
    ) -> openai.OpenAI:
        """Return a synchronous client: AzureOpenAI, or OpenAI on ``/openai/v1/``."""
        http = openai.DefaultHttpxClient(trust_env=False, verify=_trust(server.ca))
        client = _client_class(kind, asynchronous=False)(
            **{**_where(server, kind), "api_key": key, "http_client": http, "max_retries": 0, **options}
        )
        self._made.append(client)
        return client  # type: ignore[no-any-return]

    def asynchronous(
        self, server: Server, kind: Kind = "v1", *, key: str = CLIENT_KEY, **options: Any
    ) -> openai.AsyncOpenAI:
        """Return an asynchronous client; close it where its loop is (``async with``)."""
        http = openai.DefaultAsyncHttpxClient(trust_env=False, verify=_trust(server.ca))
        return _client_class(kind, asynchronous=True)(  # type: ignore[no-any-return]
            **_where(server, kind), api_key=key, http_client=http, **{"max_retries": 0, **options}
        )

    def close(self) -> None:
        """Close the synchronous clients."""
        for client in self._made:
            client.close()


def _client_class(kind: Kind, *, asynchronous: bool) -> Any:
    if kind == "azure":
        return openai.AsyncAzureOpenAI if asynchronous else openai.AzureOpenAI
    return openai.AsyncOpenAI if asynchronous else openai.OpenAI


def _where(server: Server, kind: Kind) -> dict[str, str]:
    if kind == "azure":
        return {"azure_endpoint": server.url, "api_version": API_VERSION}
    return {"base_url": f"{server.url}/openai/v1/"}


@cache
def _trust(ca: Path | None) -> ssl.SSLContext:
    """Whom a client trusts. To read all authorities for every client would take longer than its calls."""
    return ssl.create_default_context(cafile=ca)


@pytest.fixture
def sdk() -> Iterator[Sdk]:
    """Makes SDK clients: ``sdk(gateway, "azure")``, ``sdk.asynchronous(gateway, "v1")``."""
    made = Sdk()
    yield made
    made.close()


def node_folder() -> Path:
    """Return the folder with the packages from npm; they are installed when they are not there yet."""
    install(NODE_FOLDER, "openai", "axe-core")
    return NODE_FOLDER


@pytest.fixture(scope="session")
def node() -> list[str]:
    """The command that runs the JavaScript client."""
    program = require("node")
    return [program, str(node_folder() / "client.mjs")]
