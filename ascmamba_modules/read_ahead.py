"""Working ahead in threads, in order, with bounded memory."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor


def map_ahead(function, items, threads, ahead):
    """Calls a function on items in threads, ahead of who takes the results.

    SpeechBrain's ``parallel_map`` goes on to call while its first result is
    waited for, so that any number of waveforms may be in memory.

    Arguments
    ---------
    function : callable
        Called with one item; its exceptions are raised where its result
        would be yielded.
    items : iterable
        The items; taken only as far as they are needed.
    threads : int
        Calls at the same time.
    ahead : int
        Results and calls in memory at most, beside the one last yielded.

    Yields
    ------
    object
        The results, in the order of the items.

    Example
    -------
    >>> list(map_ahead(abs, [-1, -2, 3], threads=2, ahead=2))
    [1, 2, 3]
    """
    waiting = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                if len(waiting) == ahead:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(function, item))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
