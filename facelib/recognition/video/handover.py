"""A bounded queue between two threads: the one that gives waits, or drops the oldest. Either side may end."""

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
PATIENCE = 0.5  # seconds: a thread wakes so often, so that Ctrl-C is seen on every system


class Handover(Generic[Item]):
    """Hands items from one thread to another.

    Args:
        size: the most items that wait.
        drops: give up the oldest item when the queue is full, instead of waiting.

    Attributes:
        dropped: how many items were given up.
    """

    def __init__(self, size: int, drops: bool = False):
        self._items: deque[Item] = deque()
        self._size, self._drops = size, drops
        self._changed = threading.Condition()
        self._is_closed = False
        self._error: BaseException | None = None
        self.dropped = 0

    def put(self, item: Item) -> bool:
        """Hands an item over. Returns False if the other side takes no more."""
        with self._changed:
            while len(self._items) >= self._size and not self._is_closed:
                if self._drops:
                    self._items.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait(PATIENCE)
            if self._is_closed:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def finish(self, error: BaseException | None = None) -> None:
        """The giving side has no more items; `error`: what ended it, raised on the other side."""
        with self._changed:
            self._is_closed, self._error = True, self._error or error
            self._changed.notify_all()

    def stop(self) -> None:
        """The taking side takes no more."""
        with self._changed:
            self._items.clear()
            self._is_closed = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """The items in order, until the giving side finishes."""
        for item in self.with_pauses():
            if item is not None:
                yield item

    def with_pauses(self) -> Iterator[Item | None]:
        """The items in order, until the giving side finishes; and None whenever none came for `PATIENCE` seconds."""
        while True:
            with self._changed:
                if not self._items and not self._is_closed:
                    self._changed.wait(PATIENCE)
                if not self._items and self._is_closed:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._items.popleft() if self._items else None
                self._changed.notify_all()
            yield item
