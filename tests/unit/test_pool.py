"""Idle connections, which wait for their next request."""

from pyinterceptor.http.pool import IDLE_ALL, IDLE_PER_ORIGIN, IDLE_SECONDS, Origin, Pool

HERE = Origin("http", "my.kv", 80, False)


def test_the_connection_used_last_is_taken_first() -> None:
    pool: Pool[str] = Pool()
    assert pool.take(HERE) is None
    for number in range(3):
        assert pool.put(HERE, str(number), now=number) is None
    assert [pool.take(HERE) for _ in range(4)] == ["2", "1", "0", None]
    assert len(pool) == 0


def test_connections_to_different_places_are_never_exchanged() -> None:
    pool: Pool[str] = Pool()
    pool.put(HERE, "here", now=0)
    for other in (
        HERE._replace(scheme="https"),
        HERE._replace(host="other.kv"),
        HERE._replace(port=81),
        HERE._replace(local=True),
        HERE._replace(at="198.51.100.7"),
    ):
        assert pool.take(other) is None
    assert pool.take(HERE) == "here"


def test_beyond_the_limits_the_oldest_connection_is_closed() -> None:
    pool: Pool[int] = Pool()
    for number in range(IDLE_PER_ORIGIN):
        assert pool.put(HERE, number, now=number) is None
    assert pool.put(HERE, 99, now=99) == 0
    for number in range(IDLE_ALL - IDLE_PER_ORIGIN):
        assert pool.put(HERE._replace(port=1000 + number), number, now=200 + number) is None
    assert pool.put(HERE._replace(port=9999), 9999, now=9999) == 1
    assert len(pool) == IDLE_ALL


def test_a_connection_that_was_idle_for_too_long_is_closed() -> None:
    pool: Pool[str] = Pool()
    pool.put(HERE, "old", now=0)
    pool.put(HERE, "new", now=10)
    pool.put(HERE._replace(port=81), "old too", now=1)
    assert pool.expired(IDLE_SECONDS - 0.1) == []
    assert sorted(pool.expired(IDLE_SECONDS + 1)) == ["old", "old too"]
    assert pool.expired(IDLE_SECONDS + 10) == ["new"]
    assert len(pool) == 0
