"""The lock around Milvus Lite: readers together, a writer alone and first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from services.local.read_write_lock import ReadWriteLock

TIMEOUT_S = 10


def test_readers_hold_it_together() -> None:
    lock, together = ReadWriteLock(), threading.Barrier(3)

    def read() -> None:
        with lock.read():
            together.wait(TIMEOUT_S)  # breaks unless all three are inside

    with ThreadPoolExecutor(3) as pool:
        for reader in [pool.submit(read) for _ in range(3)]:
            reader.result(TIMEOUT_S)


def test_a_writer_is_alone() -> None:
    lock, inside, seen = ReadWriteLock(), [0, 0], []

    def work(writing: int) -> None:
        for _ in range(300):
            with lock.write() if writing else lock.read():
                inside[writing] += 1
                readers, writers = inside
                seen.append(writers > 1 or (writers == 1 and readers > 0))
                # two statements that a second writer would tear apart
                inside[writing] -= 1

    with ThreadPoolExecutor(6) as pool:
        for worker in [pool.submit(work, number % 2) for number in range(6)]:
            worker.result(TIMEOUT_S)
    assert inside == [0, 0]
    assert not any(seen)


def test_a_waiting_writer_goes_before_new_readers() -> None:
    lock, order, reading = ReadWriteLock(), [], threading.Event()

    def write() -> None:
        with lock.write():
            order.append("writer")

    def read() -> None:
        with lock.read():
            order.append("reader")

    with ThreadPoolExecutor(2) as pool:
        with lock.read():
            writer = pool.submit(write)
            while not lock._writers_waiting:
                reading.wait(0.01)
            reader = pool.submit(read)
            reading.wait(0.1)
            assert order == []
        writer.result(TIMEOUT_S)
        reader.result(TIMEOUT_S)
    assert order == ["writer", "reader"]


def test_it_is_released_when_the_work_fails() -> None:
    lock = ReadWriteLock()
    for held in (lock.read, lock.write, lock.read):
        try:
            with held():
                raise ValueError
        except ValueError:
            pass
    with lock.write():
        pass
