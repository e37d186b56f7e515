"""Which clients read too slowly."""

import pytest

from aoai_gateway.runtime.slow_readers import Output, SlowReaders

KB = 1024


class Client:
    """One that is handed bytes, and reads some."""

    def __init__(self, readers: SlowReaders, name: str = "c") -> None:
        self.readers, self.output = readers, readers.output(name)
        self.read = 0

    @property
    def unread(self) -> int:
        return self.output.sent - self.read


@pytest.fixture
def readers() -> SlowReaders:
    return SlowReaders()


@pytest.fixture
def client(readers: SlowReaders) -> Client:
    client = Client(readers)
    readers.unread = lambda connection: client.unread
    return client


def test_one_that_reads_nothing_is_found_once(readers: SlowReaders, client: Client) -> None:
    client.output.add(100)
    assert [readers.look(10, at) for at in (0, 5, 9)] == [[], [], []]
    assert readers.look(10, 10) == ["c"]
    assert client.output.is_cut
    assert readers.look(10, 30) == []


def test_one_that_has_read_all_is_no_longer_looked_at(readers: SlowReaders, client: Client) -> None:
    client.output.add(100)
    assert readers.look(10, 0) == []
    client.read = 100
    assert readers.look(10, 9) == []
    assert len(readers) == 0
    client.output.add(100)
    assert [readers.look(10, at) for at in (12, 15, 21)] == [[], [], []]
    assert client.output.waited == 21


@pytest.mark.parametrize(("per_second", "found"), [(KB, []), (KB - 10, ["c"])])
def test_it_must_read_with_a_speed(
    readers: SlowReaders, client: Client, per_second: int, found: list[str]
) -> None:
    """However much of it there is, and comes."""
    client.output.add(1000 * KB)
    for at in range(10):
        assert readers.look(10, at) == []
        client.output.add(100)
        client.read += per_second
    assert readers.look(10, 10) == found


def test_one_that_is_gone_is_forgotten(readers: SlowReaders, client: Client) -> None:
    client.output.add(100)
    readers.closed(client.output)
    assert len(readers) == 0
    # Its end was not seen: for an unknown connection nothing is unread.
    other = Output("d", readers._busy)
    other.add(1)
    readers.unread = lambda connection: 0
    readers.look(10, 0)
    assert len(readers) == 0


def test_waited(readers: SlowReaders, client: Client) -> None:
    assert not readers.is_waited_for(client.output, 3)
    client.output.add(1)
    assert readers.is_waited_for(client.output, 4)
    assert client.output.waited == 4
