"""Fixtures of the end-to-end tests, for processes that hostile bytes are sent to."""

from tests.e2e.conftest import home, host, pytest_generate_tests, tls

__all__ = ["home", "host", "pytest_generate_tests", "tls"]
