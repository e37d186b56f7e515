"""What the gateway promises in the face of hostile peers, and the tests that try to break it.

The table in docs/reference/security.md is made of this: ``python -m tests.docs.generated``. Each test of this
folder keeps one promise.
"""

from __future__ import annotations

from typing import NamedTuple

SECTION = "What was tried"
"""The heading in docs/reference/security.md under which the table stands."""


class Promise(NamedTuple):
    """One promise, and how it is tried."""

    promise: str
    attempts: str
    """What the tests do."""
    bound: str
    """Until where it holds, in the words of the configuration where that says it."""
    tests: tuple[str, ...]
    """Modules of this folder, without ``test_``, and in them the names of tests without it."""


PROMISES = (
    Promise(
        "What one call's content causes breaks no backend for others",
        "prompts that firewalls answer with 403, at one backend and at all",
        "a second client, or Azure's own key error, is the witness",
        (
            "blame.a_prompt_that_firewalls_block_takes_nothing_down",
            "blame.a_prompt_that_one_firewall_blocks_takes_nothing_down",
            "blame.two_clients_are_witnesses",
            "blame.a_standin_that_is_gone_is_passed_over_and_named_in_the_log",
        ),
    ),
    Promise(
        "A client's impatience is held against no backend",
        "time-outs of 50 ms, hang-ups after a failure",
        "what the call opened is withdrawn when its client leaves",
        ("blame.impatience_takes_nothing_down", "blame.a_hang_up_after_a_failure_takes_it_back"),
    ),
    Promise(
        "Large requests of one client do not delay or lock out another one's",
        "four bodies of 24 MB at once; unfinished bodies until there is no room",
        "turns by bytes; `limits.bodies_mb`, of which a client may hold as much as is free",
        ("shares.large_bodies_do_not_delay_those_of_others", "shares.unfinished_bodies_have_a_bound"),
    ),
    Promise(
        "What clients write says nothing of how fast a backend is",
        "30 calls with `max_tokens` of 2³¹ that get one token; 30 with time-outs of 50 ms, 0, -1, NaN, 1e309",
        "times and tokens of whole answers alone; `replay.first_byte_seconds`",
        ("speeds.answers_of_few_tokens_where_many_were_allowed", "speeds.calls_that_give_up_at_once"),
    ),
    Promise(
        "Who fills the queue makes room for others",
        "a client in all places of a class, another one that comes after it",
        "`wait.length`; clients have the same number of places, by weight; the newest calls leave",
        ("queue.who_fills_the_queue_makes_room",),
    ),
    Promise(
        "What a head condemns is not read",
        "24 MB for an unknown deployment, and of a client without requests left",
        "from 128 KB on; the answer comes, and then the connection ends",
        ("shares.what_a_head_condemns_is_not_read",),
    ),
    Promise(
        "Made-up tokens take nothing from real users",
        "calls with tokens that Azure does not answer, or refuses",
        "32 unproven calls at a time, half of them of one address",
        (
            "made_up_tokens.made_up_tokens_hold_nothing_while_azure_decides",
            "made_up_tokens.refused_tokens_count_against_no_client",
        ),
    ),
    Promise(
        "Work that a backend has done is counted",
        "40 calls that hang up, 50 that are answered with 400, answers that are not waited for",
        "`max_requests_per_minute`, `max_tokens_per_minute`",
        (
            "free_work.calls_that_hang_up_count",
            "free_work.calls_that_are_refused_by_the_backend_count",
            "free_work.tokens_of_an_answer_that_is_not_waited_for_are_not_given_back",
        ),
    ),
    Promise(
        "Who does not read ends alone",
        "clients that pause or never read, of streams and whole answers; a backend that reads no request",
        "`limits.unread_seconds` with less than 1 KB/s",
        (
            "slow_readers.a_client_that_pauses_gets_all_of_its_stream",
            "slow_readers.a_client_that_never_reads_its_stream_is_cut_off",
            "slow_readers.a_client_that_never_reads_a_whole_answer_is_cut_off",
            "slow_readers.a_client_that_reads_a_whole_answer_late_gets_it",
            "slow_readers.a_backend_that_does_not_read_leaves_no_socket",
        ),
    ),
    Promise(
        "Nothing that has no end fills the memory",
        "request lines, fields, chunk sizes, extensions and trailers of 64 MB each, before any key",
        "`limits.header_kb`; less than 20 MB more memory",
        ("memory.it_is_cut", "memory.memory_does_not_grow_with_their_number"),
    ),
    Promise(
        "What is remembered of peers has bounds",
        "1,200 calls with new names of 4 KB in all fields, from clients and backends",
        "each table has a number of entries; names are kept as digests",
        (
            "tables.no_table_without_a_bound_grows",
            "tables.what_is_kept_of_a_call_is_small",
            "tables.the_walk_finds_what_is_kept",
        ),
    ),
    Promise(
        "No answer of a backend unfolds or stalls the event loop",
        "bodies and streams of 512 MB in few bytes of gzip, deflate, brotli and zstd; "
        "events and JSON made to be slow",
        "20 ms of the loop; 64 MB of memory; of a compressed stream, 100 times what has come",
        ("answers.no_answer_stalls_the_loop", "answers.no_bomb_unfolds"),
    ),
    Promise(
        "All that waits has an end",
        "silent connections, half heads and bodies, idle connections, answers that drip",
        "`limits.head_seconds`, `body_seconds`, `keep_alive_seconds`, `answer_seconds`",
        (
            "deadlines.a_connection_that_says_nothing_is_closed",
            "deadlines.half_a_head_has_an_end",
            "deadlines.half_a_body_has_an_end",
            "deadlines.a_body_that_comes_steadily_may_take_its_time",
            "deadlines.an_idle_connection_is_closed",
            "deadlines.after_a_refusal_what_never_ends_is_not_taken",
            "deadlines.an_answer_that_drips_has_an_end",
        ),
    ),
    Promise(
        "Connections of one address lock no other one out, nor health",
        "silent connections until all descriptors are used",
        "`limits.connections`, `connections_per_address`, 16 in reserve; one line in the log a minute",
        (
            "deadlines.silent_connections_lock_no_client_out",
            "deadlines.when_descriptors_run_out_it_says_so_once",
            "deadlines.few_descriptors_are_warned_of_at_start",
        ),
    ),
    Promise(
        "A secret that a backend spreads gets nowhere",
        "keys in heads, reasons, bodies, compressed and cut streams, trailers, redirects, what is no HTTP",
        "from 8 characters on; in four spellings",
        (
            "echo.everything_was_tried",
            "echo.no_secret_gets_anywhere",
            "echo.no_clients_key_reaches_a_backend",
            "echo.no_reason_paints_a_terminal",
            "echo.a_stranger_is_told_states_only",
            "echo.a_code_that_is_a_secret_is_no_reason",
        ),
    ),
    Promise(
        "Files of calls are their owner's",
        "usage logs, dumps and HAR files, where processes create files for all",
        "a file that is appended to keeps its group",
        (
            "files.a_usage_log",
            "files.mitmproxys_own_files",
            "files.a_file_of_flows_that_goes_on",
        ),
    ),
    Promise(
        "What two parsers read differently is refused",
        "control characters, doubled and odd framing, bare CR, from clients and from backends",
        "400 to the client; a backend's fault at the backend",
        (
            "http.what_can_be_read_in_two_ways_is_refused",
            "http.empty_lines_before_a_request",
            "http.an_offer_is_ignored_and_not_forwarded",
            "http.what_can_be_repaired_is_the_answer",
            "http.what_cannot_is_the_backends_fault",
            "http.http_1_0_without_host",
        ),
    ),
    Promise(
        "A cut stream does not look complete",
        "backends that break off, to clients of HTTP/1.0 and 1.1",
        "an error event, and no end of the chunks",
        ("http.a_cut_stream_does_not_end_cleanly",),
    ),
    Promise(
        "A client that has only ended what it sends gets its answer; one that has left is noticed",
        "both, before an answer and within a stream, of HTTP/1.0 and 1.1, behind relays",
        "a byte of the status line, or a comment between events, draws a reset from who has left; "
        "the end of TLS is a hang-up",
        (
            "half_close.a_client_that_waits_gets_its_answer",
            "half_close.it_gets_an_error",
            "half_close.it_gets_a_stream",
            "half_close.it_closes_its_side_within_a_stream",
            "half_close.all_that_it_has_sent_is_answered",
            "half_close.a_client_that_left_is_gone",
            "half_close.a_client_that_leaves_a_silent_stream_is_gone",
            "half_close.a_client_that_leaves_later_is_gone",
            "half_close.a_client_that_leaves_while_its_stream_flows_is_gone",
            "half_close.a_client_behind_a_relay_that_left_is_gone",
            "half_close.the_end_of_tls_is_a_hang_up",
        ),
    ),
    Promise(
        "Strangers learn states only",
        "TLS on the plain port, other methods and readers at the health paths",
        "no made-up certificate, no bytes in the log, names and states",
        (
            "http.tls_on_a_port_that_speaks_http",
            "http.health_answers_other_methods",
            "http.strangers_learn_states_only",
        ),
    ),
    Promise(
        "No signal and no file ends the process",
        "SIGHUP, SIGUSR1, SIGUSR2; pipes, folders, devices and sparse files as configuration; a full disk",
        "the configuration in force stays; SIGTERM ends it",
        (
            "life.sighup_reloads",
            "life.sigusr1_tells_how_things_stand",
            "life.sigusr2_tells_where_its_threads_are",
            "life.no_file_where_the_configuration_was",
            "life.it_ends_while_its_configuration_is_a_fifo",
            "life.a_policy_file_that_is_a_fifo",
            "life.check_does_not_wait_for_a_fifo",
            "life.a_full_disk_for_captures_is_told",
        ),
    ),
    Promise(
        "No spelling of a name evades a limit",
        "upper and lower case, percent-encoded, in path and body",
        "as Azure compares names",
        ("names.no_spelling_evades_a_limit_or_an_allow_list",),
    ),
    Promise(
        "After all of it in one process nothing is left",
        "each kind of client and backend above at one gateway, while another client calls",
        "20 MB more memory than after the first time, no traceback, 100 ms more for other calls",
        ("all_at_once.a_gateway_outlives_all_of_it",),
    ),
)


def rows() -> list[tuple[str, str, str]]:
    """Return the rows of the table."""
    return [(each.promise, each.attempts, each.bound) for each in PROMISES]
