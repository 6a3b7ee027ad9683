"""What calls take: learnt size by size, guessed carefully between and beyond, and not spoiled by one bad call."""

from __future__ import annotations

import numpy as np
import pytest

from app.serving.call_times import DOUBTED, LEAST, SPARE, CallTimes

SIZES = (1, 2, 4, 8, 16)
LONG = 1e6  # seconds


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def times(
    clock: Clock, known: dict[int, float] | None = None, max_batch: int = 16, sizes: tuple[int, ...] = SIZES
) -> CallTimes:
    """With calls behind it: so many photos took so many seconds."""
    found = CallTimes(clock)
    found.fit(max_batch, sizes)
    for count, seconds in (known or {}).items():
        ran(found, clock, count, seconds)
    return found


def ran(found: CallTimes, clock: Clock, count: int, seconds: float) -> None:
    call = found.begin(count)
    clock.now += seconds
    found.end(call)


def test_nothing_is_known_at_first() -> None:
    found = times(Clock())
    assert (found.seconds(1), found.seconds(16), found.drain(1000), found.rests()) == (0, 0, 0, [])


def test_sizes_between_beyond_and_below_the_known_ones() -> None:
    found = times(Clock(), {2: 2.0, 8: 5.0})
    assert [found.seconds(count) for count in (1, 2, 3, 4, 5, 8, 9, 16)] == [2, 2, 3, 3, 5, 5, 10, 10]
    unpadded = times(Clock(), {2: 2.0, 4: 3.0}, max_batch=6, sizes=())
    assert [unpadded.seconds(count) for count in range(1, 7)] == [2, 2, 2.5, 3, 3.75, 4.5]


def test_a_size_has_a_moving_average_in_which_no_call_counts_for_more_than_twice() -> None:
    clock = Clock()
    found = times(clock, {1: 1.0})
    ran(found, clock, 1, 1.5)
    assert found.seconds(1) == pytest.approx(1.1)  # a fifth of the way
    ran(found, clock, 1, 300.0)
    assert found.seconds(1) == pytest.approx(1.32)
    for _ in range(20):
        ran(found, clock, 1, 10.0)
    assert found.seconds(1) == pytest.approx(10, rel=0.05), "lasting slowness is learnt"


def test_a_call_that_failed_says_nothing() -> None:
    clock = Clock()
    found = times(clock, {1: 1.0})
    call = found.begin(1)
    clock.now += 0.001
    found.end(call, counts=False)
    assert (found.seconds(1), found.running) == (1, 0)


def test_the_first_call_counts_before_it_ends() -> None:
    clock = Clock()
    found = times(clock)
    found.begin(2)
    clock.now = 3.0
    assert [found.seconds(count) for count in (1, 2, 4)] == [3, 3, 6]
    assert found.rests() == [3], "it may take as long again"


def test_the_rest_of_running_calls() -> None:
    clock = Clock()
    found = times(clock, {1: 1.0, 4: 4.0})
    began = clock.now
    found.begin(4)
    clock.now = began + 1
    assert found.rests() == [3]
    found.begin(1)
    assert sorted(found.rests()) == [1, 3]
    clock.now = began + 9  # five seconds late, and the other seven
    assert sorted(found.rests()) == [5, 7]


def test_what_a_queue_takes() -> None:
    alike = times(Clock(), dict.fromkeys(SIZES, 1.0))
    assert [alike.drain(count) for count in (0, 1, 16, 17, 32)] == [0, 1, 1, 2, 2]
    each = times(Clock(), {1: 1.0, 16: 16.0})
    assert [each.drain(count) for count in (0, 1, 5, 17)] == [0, 1, 5, 17], "no padding is paid for"


def test_a_batch_is_done_before_its_most_urgent_photo_is_too_late() -> None:
    found = times(Clock(), {1: 1.0, 16: 16.0})
    assert found.best([LONG] * 16) == 16
    assert found.best([10.0] + [LONG] * 15) == 8, "sixteen take 16 s"
    assert found.best([LONG] * 3 + [5.0] + [LONG] * 12) == 4
    assert found.best([0.5] * 16) == 1


@pytest.mark.parametrize(
    ("known", "taken"),
    [
        ({}, [1, 2, 2, 4, 4, 8, 8, 8, 16]),  # each photo costs the same, and so does padding
        ({1: 1.0, 16: 16.0}, [1, 2, 2, 4, 4, 8, 8, 8, 16]),
        ({1: 1.0, 16: 1.0}, [1, 2, 3, 5, 6, 9, 11, 12, 16]),  # a call costs, photos do not
        ({1: 13.0, 16: 58.0}, [1, 2, 3, 4, 6, 8, 8, 8, 16]),
        ({1: 1.0, 8: 4.0, 16: 9.0}, [1, 2, 3, 4, 4, 8, 8, 8, 8]),  # sixteen do not fit into a cache
    ],
)
def test_a_batch_is_cut_where_that_makes_more_photos_a_second(known: dict[int, float], taken: list[int]) -> None:
    found = times(Clock(), known)
    assert [found.best([LONG] * count) for count in (1, 2, 3, 5, 6, 9, 11, 12, 16)] == taken


def test_without_padding_there_is_nothing_to_cut() -> None:
    found = times(Clock(), sizes=())
    assert [found.best([LONG] * count) for count in range(1, 17)] == list(range(1, 17))


def test_a_size_that_was_never_run_is_tried_while_it_fits_at_worst() -> None:
    found = times(Clock(), {1: 3.0})
    assert found.best([7.0] * 16) == 2, "6 s at worst"
    assert found.best([5.9] * 16) == 1


def test_a_size_that_one_bad_call_made_unattractive_is_tried_again() -> None:
    clock = Clock()
    found = times(clock, {1: 0.1, 8: 0.1, 16: 9.0})
    assert found.best([LONG] * 16) == 8
    clock.now += DOUBTED
    ran(found, clock, 8, 0.1)
    assert found.best([LONG] * 16) == 8  # and forgets the larger one
    assert found.best([LONG] * 16) == 16


def test_one_call_is_never_forgotten_for_another_guess() -> None:
    clock = Clock()
    found = times(clock, {16: 9.0})
    clock.now += 10 * DOUBTED
    assert found.best([20.0] * 15 + [0.1]) == 15
    assert found.seconds(16) == 9


def test_the_batch_to_reckon_with_leaves_time_for_the_one_before_it() -> None:
    each = times(Clock(), {1: 0.7, 16: 11.2})
    assert each.own_batch(9.0) == pytest.approx((4, SPARE * 2.8)), "eight take 5.6 s, and twice that is too long"
    assert each.own_batch(0.2) == pytest.approx((1, SPARE * 0.7))
    alike = times(Clock(), {1: 0.04, 16: 0.04})
    assert alike.own_batch(9.0) == pytest.approx((16, SPARE * 0.04))


def test_who_would_make_batches_slow_is_too_late() -> None:
    each = times(Clock(), {1: 0.7, 16: 11.2})
    assert each.needed(16, 9.0) == pytest.approx(SPARE * 0.7), "one alone is as good as any"
    costly = times(Clock(), {1: 0.6, 16: 2.1})  # half a second a call
    enough = next(n for n in range(1, 17) if n / costly.seconds(n) >= LEAST * 16 / 2.1)
    assert costly.needed(100, 9.0) == SPARE * costly.seconds(enough) > SPARE * 0.6
    assert costly.needed(1, 9.0) == pytest.approx(SPARE * 0.6), "nobody else waits"


def test_figures_are_plain_numbers() -> None:
    found = times(Clock(), {1: 0.7})
    assert not any(isinstance(one, np.generic) for one in (found.drain(3), found.best([LONG] * 3)))
