from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

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
