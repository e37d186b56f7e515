"""What follows `--`: turned into settings, and misspelt names found."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

import pytest
from mitmproxy.options import Options
from mitmproxy.tools import cmdline

from aoai_gateway.app.mitmproxy_options import OptionError, as_settings, stock_options, unclaimed


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ([], []),
        (["--set", "a=b=c", "--set", "flag"], ["a=b=c", "flag"]),
        (["-k"], ["ssl_insecure=true"]),
        (["--no-http2"], ["http2=false"]),
        (["-w", "calls.flows"], ["save_stream_file=calls.flows"]),
        (["--certs", "a.pem", "--certs", "*=b.pem"], ["certs=a.pem", "certs=*=b.pem"]),
        (["--web-port", "9000"], ["web_port=9000"]),
        (["-q"], ["termlog_verbosity=error"]),
        (["-v"], ["termlog_verbosity=debug"]),
    ],
)
def test_flags_become_settings(words: Sequence[str], settings: list[str]) -> None:
    assert as_settings(words) == settings


@pytest.mark.parametrize("words", [["-w", "x"], ["--certs", "a", "--certs", "b"], ["--no-http2"], ["-k"]])
def test_settings_mean_what_mitmproxy_makes_of_the_flags(words: list[str]) -> None:
    by_setting, by_flag = stock_options(), stock_options()
    by_setting.set(*as_settings(words))
    parser = argparse.ArgumentParser()
    cmdline.common_options(parser, by_flag)
    given = vars(parser.parse_args(words))
    by_flag.update(**{name: value for name, value in given.items() if name in by_flag and value is not None})
    assert by_setting == by_flag
    assert by_setting != stock_options()


def test_abbreviations_are_refused() -> None:
    with pytest.raises(OptionError, match="--ssl-insec"):
        as_settings(["--ssl-insec"])


def test_a_missing_value_is_said() -> None:
    with pytest.raises(OptionError, match="-w: expected one argument"):
        as_settings(["-w"])


def test_the_options_of_every_stock_addon_are_known() -> None:
    names = stock_options().keys()
    assert {"listen_port", "ssl_insecure", "save_stream_file", "termlog_verbosity", "web_port"} <= names


def test_collecting_the_options_leaves_no_log_handler_behind() -> None:
    before = list(logging.getLogger().handlers)
    stock_options()
    assert logging.getLogger().handlers == before


def test_an_option_that_no_addon_claims_is_found_and_corrected() -> None:
    options = Options()
    assert unclaimed(["listen_port", "ssl_insecure"], options) == []
    assert unclaimed(["listen_prot", "x_y_z"], options) == [
        "mitmproxy and the loaded addons have no option 'listen_prot'; did you mean \"listen_port\"?",
        "mitmproxy and the loaded addons have no option 'x_y_z'",
    ]
