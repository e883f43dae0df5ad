"""Batches computed ahead of the training step, in order, in one background thread."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Iterates (step, make_batch(step)) once, for first_step <= step < last_step, `depth` batches ahead of the loop.

    Steps are made one after the other in a single thread, so make_batch need not be thread-safe and the values are
    those of a plain loop. An exception of make_batch is raised in the loop at the step it belongs to. Leaving the
    `with` block, for whatever reason, ends the thread; it is a daemon, so that an interpreter that dies does not wait
    for it either.
    """

    def __init__(self, make_batch: Callable[[int], T], first_step: int, last_step: int, depth: int = 2):
        if depth < 1:
            raise ValueError(f"Prefetcher: depth must be at least 1, but is {depth}.")
        self._make_batch = make_batch
        self._steps = range(first_step, last_step)
        self._to_hand_out = iter(self._steps)
        self._ready: queue.Queue = queue.Queue()
        # Permits rather than a bounded queue: the thread waits before it makes a batch and not with one in its hands,
        # and close() can wake it by handing out a permit.
        self._permits = threading.Semaphore(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        for step in self._steps:
            self._permits.acquire()
            if self._closed.is_set():
                return
            try:
                self._ready.put((step, self._make_batch(step), None))
            except BaseException as error:  # raised again in the consumer's thread
                self._ready.put((step, None, error))
                return

    def __iter__(self) -> Iterator[tuple[int, T]]:
        for _ in self._to_hand_out:
            if self._closed.is_set():
                raise RuntimeError("Prefetcher: iterated after close().")
            step, batch, error = self._ready.get()
            if error is not None:
                self._closed.set()
                raise error
            self._permits.release()
            yield step, batch

    def close(self) -> None:
        """Stops making batches; returns when a batch that is being made is done."""
        self._closed.set()
        self._permits.release()
        self._thread.join()

    def __enter__(self) -> "Prefetcher[T]":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()
