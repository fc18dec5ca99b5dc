import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock

import pytest
import torch

from caspr_spark.model.chunk_threads import ChunkThreads


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_each_chunk_has_one_thread_of_torch_and_the_caller_has_its_own_again() -> None:
    with ChunkThreads(2) as threads:
        assert list(threads.map(lambda _: torch.get_num_threads(), [1, 2, 3])) == [1, 1, 1]
    assert torch.get_num_threads() == 3


def test_two_that_overlap_leave_the_number_of_threads_as_it_was() -> None:
    first, second = ChunkThreads(2), ChunkThreads(2)
    with ThreadPoolExecutor(1) as other:
        first.__enter__()
        other.submit(second.__enter__).result()
        first.__exit__(None, None, None)
        other.submit(second.__exit__, None, None, None).result()
        assert other.submit(torch.get_num_threads).result() == 3
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("num_items", [0, 1, 2, 7])
def test_results_come_in_order_and_no_more_are_computed_than_there_are_threads(size: int, num_items: int) -> None:
    at_once = min(size, num_items)
    lock, all_there, running, most, begun = Lock(), Barrier(max(1, at_once)), 0, 0, 0

    def work(item: int) -> int:
        nonlocal running, most, begun
        with lock:
            running, begun = running + 1, begun + 1
            most = max(most, running)
        if item < at_once:
            all_there.wait(timeout=60)  # so many do run at the same time
        time.sleep(0.001 * (num_items - item))  # the first is the last to end
        with lock:
            running -= 1
        return item * item

    with ChunkThreads(size) as threads:
        for number, found in enumerate(threads.map(work, range(num_items))):
            assert found == number * number
            assert begun <= number + 2 + size  # little that is done lies about
    assert most == at_once


def test_a_chunk_that_fails_ends_all_and_the_next_are_not_begun() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError("no")
        return item

    with ChunkThreads(2) as threads, pytest.raises(ValueError, match="no"):
        list(threads.map(work, range(50)))
    assert len(begun) < 10
