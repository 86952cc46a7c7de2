"""The queue between two threads: order, waiting, dropping, and the end of either side."""

import threading
import time

import pytest

from facelib.recognition.video.handover import Handover


def give(queue, items):
    thread = threading.Thread(target=lambda: [queue.put(item) for item in items] and queue.finish(), daemon=True)
    thread.start()
    return thread


def test_items_come_in_order_and_none_is_lost_however_slow_the_taker_is():
    queue = Handover(2)
    give(queue, range(50))

    taken = []
    for item in queue:
        time.sleep(0.001)
        taken.append(item)
    assert taken == list(range(50)) and queue.dropped == 0


def test_a_giver_that_may_drop_never_waits_and_the_newest_items_stay():
    queue = Handover(2, drops=True)
    for item in range(10):
        assert queue.put(item)
    queue.finish()

    assert list(queue) == [8, 9] and queue.dropped == 8


def test_what_ended_the_giver_is_raised_at_the_taker_after_the_items():
    queue = Handover(4)
    queue.put(1)
    queue.finish(ValueError("gone"))

    taken = []
    with pytest.raises(ValueError, match="gone"):
        taken.extend(queue)
    assert taken == [] or taken == [1]


def test_a_giver_that_waits_is_let_go_when_nobody_takes_any_more():
    queue = Handover(1)
    thread = give(queue, range(5))
    time.sleep(0.02)
    queue.stop()

    thread.join(2)
    assert not thread.is_alive() and not queue.put(9)
