"""The number that an autoscaler reads: shares of the last half minute, of whoever looks and however often."""

from __future__ import annotations

from app.telemetry.load import Load, Worked


class Clock:
    """Seconds, as they are set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def looked(load: Load, clock: Clock, at: float, worked: Worked) -> tuple[float, ...]:
    """Percent of engine, host and event loop at a time."""
    clock.now = at
    return tuple(round(share, 6) for share in load.look(worked).values())


def test_shares_of_each_part() -> None:
    clock = Clock()
    load = Load(processors=4, clock=clock)
    assert looked(load, clock, 100, Worked(7, 8, 9)) == (0, 0, 0), "nothing is known of the time before"
    assert looked(load, clock, 110, Worked(12, 18, 11)) == (50, 30, 20)


def test_what_is_older_than_half_a_minute_is_forgotten() -> None:
    clock = Clock()
    load, engine = Load(processors=1, clock=clock), 0.0
    found = []
    for at in range(100, 400, 15):
        found.append(looked(load, clock, at, Worked(engine))[0])
        engine += 15 if at < 205 else 0  # busy until 205, and then idle
    assert found[1:8] == [100] * 7
    assert found[8:10] == [50, 0], "at 220 half of the last 30 seconds, at 235 none"
    assert set(found[10:]) == {0}


def test_two_who_look_do_not_take_it_from_each_other() -> None:
    clock = Clock()
    load = Load(processors=1, clock=clock)
    for at in range(100, 160):
        looked(load, clock, at, Worked((at - 100) / 2))
    assert looked(load, clock, 160, Worked(30)) == (50, 0, 0)
    assert looked(load, clock, 160.5, Worked(30.25)) == (50, 0, 0)


def test_one_call_just_after_the_first_look_is_not_a_full_load() -> None:
    """As seen by a second scraper that comes 10 ms after the first, in the middle of the only call."""
    clock = Clock()
    load = Load(processors=1, clock=clock)
    looked(load, clock, 100, Worked())
    assert looked(load, clock, 100.01, Worked(0.01)) == (0, 0, 0)
    assert looked(load, clock, 101, Worked(0.02)) == (2, 0, 0)


def test_what_begins_anew_is_no_negative_load() -> None:
    clock = Clock()
    load = Load(processors=2, clock=clock)
    looked(load, clock, 100, Worked(50, 50, 50))
    assert looked(load, clock, 130, Worked(50, 3, 53)) == (0, 5, 10)


def test_it_ends_at_a_hundred() -> None:
    clock = Clock()
    load = Load(processors=1, clock=clock)
    looked(load, clock, 100, Worked())
    assert looked(load, clock, 110, Worked(10.5, 9, 3)) == (100, 100, 30)
