"""nginx and HAProxy from the system's packages, each with the least that people write."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from typing import Literal

from tests.e2e.processes import WAIT_SECONDS
from tests.ports import free_port

Kind = Literal["nginx", "nginx-tuned", "haproxy", "haproxy-tcp"]

NGINX = """
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 128; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        {settings}
        location / {{
            proxy_pass http://127.0.0.1:{gateway};
        }}
    }}
}}
"""

TUNED = """
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_buffering off;
        client_max_body_size 100m;
        proxy_read_timeout 600s;
"""
"""What docs/howto/behind-a-proxy.md names."""

HAPROXY = """
defaults
    mode {mode}
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    timeout check 20s
    {settings}
frontend front
    bind 127.0.0.1:{port}
    default_backend gateway
backend gateway
    option httpchk GET /health/ready
    server gateway 127.0.0.1:{gateway} check inter 200ms
"""


ABORTING = """
    option http-no-delay
    option abortonclose
"""


class Front:
    """A proxy before a gateway."""

    def __init__(self, kind: Kind, program: str, folder: Path, gateway: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        file = folder / f"{kind}.conf"
        if kind.startswith("haproxy"):
            mode, settings = ("http", ABORTING) if kind == "haproxy" else ("tcp", "")
            file.write_text(HAPROXY.format(mode=mode, settings=settings, port=self.port, gateway=gateway))
            command = [program, "-db", "-f", str(file)]
        else:
            settings = TUNED if kind == "nginx-tuned" else ""
            values = {"folder": folder, "port": self.port, "gateway": gateway, "settings": settings}
            file.write_text(NGINX.format(**values))
            command = [program, "-c", str(file), "-p", str(folder)]
        self._log = (folder / f"{kind}.out").open("wb")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)

    def wait(self, seconds: float = WAIT_SECONDS) -> None:
        """Wait until it answers from the gateway."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self._process.poll() is None, Path(self._log.name).read_text()
            try:
                with socket.create_connection(("127.0.0.1", self.port), 2) as probe:
                    probe.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    if probe.recv(100).startswith(b"HTTP/1.1 200"):
                        return
            except OSError:
                pass
            time.sleep(0.05)
        raise TimeoutError(f"no answer through the proxy: {Path(self._log.name).read_text()}")

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(60)
        self._log.close()
