"""How small work is spread over the cores: whole pieces at once, each computed by torch on one thread.

Where it stands: the generator draws pictures so, simulations train people so, and a device trains on one
thread of its own. By default torch's threads share each operation and wait for each other after it, spinning.
For models as small as ours that gains little, it loses much where another program keeps a core busy, and sums
come out differently on another number of threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> list[Result]:
    """Return the result of the work for each item, in order.

    Up to `workers` items are worked on at a time, each on one thread of torch.

    Raises:
        Exception: what the work raises for the first item for which it does; no further item is begun then.
    """
    import torch

    with one_thread():
        if workers == 1 or len(items) == 1:
            return [work(item) for item in items]
        # Each thread has a number of its own, so each is told.
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, items))
