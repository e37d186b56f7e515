"""Saving is noticed once, when it is whole, in each way that editors and Kubernetes save."""

import os
from pathlib import Path

import pytest

from aoai_gateway.config.loader import ConfigErrors, Loaded, load
from aoai_gateway.config.reload import Watch, waits_for_restart

MAIN = "aoai: {endpoints: [{name: one, url: 'https://one.example', key: k}]}\n"


def client(name: str) -> str:
    return f"clients:\n  - name: {name}\n    key: key-of-{name}\n"


@pytest.fixture
def main(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "clients.yaml").write_text(client("a"))
    (tmp_path / "gateway.yaml").write_text(MAIN)
    return tmp_path / "gateway.yaml"


@pytest.fixture
def watch(main: Path) -> Watch:
    watch = Watch(main, env={}, loaded=load(main, env={}))
    assert settle(watch) == []
    return watch


def settle(watch: Watch) -> list[Loaded | ConfigErrors]:
    """Everything that a few polls report."""
    return [outcome for _ in range(4) if (outcome := watch.poll())]


def names(outcomes: list[Loaded | ConfigErrors]) -> list[list[str]]:
    return [
        [each.name for each in outcome.config.clients] for outcome in outcomes if isinstance(outcome, Loaded)
    ]


def touch(file: Path, text: str) -> None:
    """Write; and make sure that the time differs, however coarse the file system's clock is."""
    before = file.stat().st_mtime_ns if file.exists() else 0
    file.write_text(text)
    os.utime(file, ns=(before + 1_000_000, before + 1_000_000))


def test_nothing_happens_when_nothing_changes(watch: Watch):
    assert settle(watch) == []


def test_without_a_configuration_in_force_the_first_is_reported(main: Path):
    watch = Watch(main, env={})
    assert names(settle(watch)) == [["a"]]
    assert settle(watch) == []


def test_a_change_between_loading_and_watching_is_not_lost(main: Path):
    loaded = load(main, env={})
    (main.parent / "policies" / "clients.yaml").write_text(client("b"))
    assert names(settle(Watch(main, env={}, loaded=loaded))) == [["b"]]


def test_writing_in_place(main: Path, watch: Watch):
    touch(main.parent / "policies" / "clients.yaml", client("b"))
    assert names(settle(watch)) == [["b"]]
    assert settle(watch) == []


def test_writing_the_main_file(main: Path, watch: Watch):
    touch(main, MAIN + "listen: {port: 9}\n")
    (outcome,) = settle(watch)
    assert isinstance(outcome, Loaded)
    assert outcome.config.listen.port == 9


def test_an_editor_that_replaces_the_file_with_the_same_size_and_time(main: Path, watch: Watch):
    file = main.parent / "policies" / "clients.yaml"
    status = file.stat()
    new = file.with_suffix(".tmp")
    new.write_text(client("b"))
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.replace(file)
    assert names(settle(watch)) == [["b"]]


def test_files_that_appear_and_disappear(main: Path, watch: Watch):
    extra = main.parent / "policies" / "more.yaml"
    extra.write_text(client("b"))
    assert names(settle(watch)) == [["a", "b"]]
    extra.unlink()
    assert names(settle(watch)) == [["a"]]


def test_the_policies_folder_appears(tmp_path: Path):
    main = tmp_path / "gateway.yaml"
    main.write_text(MAIN + client("a"))
    watch = Watch(main, env={}, loaded=load(main, env={}))
    assert settle(watch) == []
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "b.yaml").write_text(client("b"))
    assert names(settle(watch)) == [["a", "b"]]


def test_the_swap_of_a_config_map(tmp_path: Path):
    for version in ("1", "2"):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "gateway.yaml").write_text(MAIN + client(f"v{version}"))
        os.utime(tmp_path / f"..{version}" / "gateway.yaml", ns=(0, 0))
    (tmp_path / "..data").symlink_to("..1")
    main = tmp_path / "gateway.yaml"
    main.symlink_to("..data/gateway.yaml")
    watch = Watch(main, env={}, loaded=load(main, env={}))
    assert settle(watch) == []
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").replace(tmp_path / "..data")
    assert names(settle(watch)) == [["v2"]]


def test_a_file_that_is_still_being_written_is_not_read(main: Path, watch: Watch):
    for length in range(1, 5):
        touch(main, MAIN[: 5 * length])
        assert watch.poll() is None
    touch(main, MAIN + "drain_seconds: 5\n")
    (outcome,) = settle(watch)
    assert isinstance(outcome, Loaded)
    assert outcome.config.drain_seconds == 5


def test_a_file_that_changes_while_it_is_read_is_read_again(
    main: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
):
    touch(main, MAIN + "drain_seconds: 5\n")
    real, saved = Watch._load, []

    def load_while_an_editor_saves(self: Watch) -> Loaded | ConfigErrors:
        outcome = real(self)
        if not saved:
            saved.append(touch(main, MAIN + "drain_seconds: 6\n"))
        return outcome

    monkeypatch.setattr(Watch, "_load", load_while_an_editor_saves)
    (outcome,) = settle(watch)
    assert isinstance(outcome, Loaded)
    assert outcome.config.drain_seconds == 6


def test_a_bad_file_is_reported_once_for_each_change(main: Path, watch: Watch):
    touch(main, "aoai: [")
    (outcome,) = settle(watch)
    assert isinstance(outcome, ConfigErrors)
    assert settle(watch) == []
    touch(main, "aoai: [[")
    assert [type(each) for each in settle(watch)] == [ConfigErrors]
    touch(main, MAIN)
    assert names(settle(watch)) == [["a"]]


def test_a_missing_file_is_reported_once_and_its_return_as_well(main: Path, watch: Watch):
    main.unlink()
    (outcome,) = settle(watch)
    assert isinstance(outcome, ConfigErrors)
    assert "cannot be read" in str(outcome)
    assert settle(watch) == []
    main.write_text(MAIN)
    assert names(settle(watch)) == [["a"]]


def test_a_touch_is_no_change(main: Path, watch: Watch):
    touch(main, MAIN)
    assert settle(watch) == []


def test_a_file_that_vanishes_between_two_polls_is_no_change(main: Path, watch: Watch):
    main.rename(main.with_suffix(".bak"))
    assert watch.poll() is None
    main.with_suffix(".bak").rename(main)
    assert settle(watch) == []


def test_a_file_that_vanishes_twice_has_to_stay_away_for_two_polls(main: Path, watch: Watch):
    away = main.with_suffix(".bak")
    for _ in range(2):
        main.rename(away)
        assert watch.poll() is None
        away.rename(main)
        assert watch.poll() is None
    main.rename(away)
    assert [type(outcome) for outcome in (watch.poll(), watch.poll())] == [type(None), ConfigErrors]


def test_what_waits_for_a_restart_is_said_when_it_is_changed_and_not_when_it_is_changed_back(main: Path):
    start = load(main, env={}).config
    main.write_text(MAIN + "listen: {port: 9000}\nstate_prefix: other\n")
    moved = load(main, env={}).config
    assert list(waits_for_restart(start, start, moved)) == [
        "listen.host and listen.port take effect when the gateway is restarted.",
        "state, state_prefix and budget_file take effect when the gateway is restarted.",
    ]
    assert list(waits_for_restart(start, moved, moved)) == []
    assert list(waits_for_restart(start, moved, start)) == []
