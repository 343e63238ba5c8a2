"""Small work over the cores: in order, each piece on one thread of torch, as many at once as allowed."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from palate.client.runtime.threads import one_thread, side_by_side


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_each_piece_is_done_once_and_results_are_in_order(workers: int, count: int) -> None:
    done: list[int] = []

    def work(item: int) -> int:
        done.append(item)
        return item * item

    assert side_by_side(work, range(count), workers) == [item * item for item in range(count)]
    assert sorted(done) == list(range(count))


@pytest.mark.parametrize("workers", [1, 3])
def test_torch_computes_each_piece_on_one_thread_and_then_on_as_many_as_before(workers: int) -> None:
    torch.set_num_threads(3)
    assert side_by_side(lambda item: torch.get_num_threads(), range(6), workers) == [1] * 6
    assert torch.get_num_threads() == 3


def test_pieces_are_done_at_the_same_time() -> None:
    """Each waits for the other, so one after the other would never end."""
    both = threading.Barrier(2, timeout=30)
    assert sorted(side_by_side(lambda item: both.wait(), range(2), 2)) == [0, 1]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_ends_the_work_and_leaves_the_number_of_threads_as_it_was(workers: int) -> None:
    torch.set_num_threads(2)
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            raise ValueError("piece 0")
        time.sleep(0.02)

    with pytest.raises(ValueError, match="piece 0"):
        side_by_side(work, range(100), workers)
    assert len(begun) < 100
    assert torch.get_num_threads() == 2


def test_one_thread_is_undone_when_the_block_fails() -> None:
    def fail() -> None:
        raise ValueError(f"wrong on {torch.get_num_threads()}")

    torch.set_num_threads(2)
    with pytest.raises(ValueError, match="wrong on 1"), one_thread():
        fail()
    assert torch.get_num_threads() == 2
