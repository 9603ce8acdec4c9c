"""How long a reader of the log lets a batch grow: hardly under little load, and never longer than the read models may lag."""

from tailrace.projections.partition import ReaderOptions

OPTIONS = ReaderOptions(linger_seconds=0.05, full_rate=4500.0)


def test_a_batch_grows_with_the_load() -> None:
    """A lone event is seen at once, a full log is read in batches of a sixth of a second, and none waits longer."""
    assert OPTIONS.linger(1, 2.0) == 0.05
    assert OPTIONS.linger(1, 0.0) == 0.05
    half = OPTIONS.linger(450, 0.2)
    assert 0.05 < half < 0.1
    assert OPTIONS.linger(900, 0.2) == OPTIONS.linger(1999, 0.01) == 0.05 * 3


def test_a_reader_that_does_not_linger_never_does() -> None:
    """Whoever asks for rows at once has them at once, also under load."""
    assert ReaderOptions(linger_seconds=0.0).linger(2000, 0.01) == 0.0
