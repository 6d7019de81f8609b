"""Whoever brings many is served in turn with whoever brings one, and takes nobody's place."""

from nubabel_workers.domain.fair_line import FairLine


def line(*, each: int = 3, places: int = 6) -> FairLine[str, str]:
    return FairLine(places_each=each, places=places)


def served(waiting: FairLine[str, str]) -> list[str]:
    found = []
    while (one := waiting.serve()) is not None:
        found.append(one)
    return found


def test_each_gets_a_turn_in_the_order_in_which_they_came() -> None:
    waiting = line()
    for who, what in (("loud", "l1"), ("loud", "l2"), ("loud", "l3"), ("quiet", "q1"), ("other", "o1")):
        waiting.join(who, what)

    assert served(waiting) == ["l1", "q1", "o1", "l2", "l3"]
    assert len(waiting) == 0


def test_who_comes_again_after_a_turn_is_behind_those_who_wait_for_theirs() -> None:
    waiting = line()
    for who, what in (("loud", "l1"), ("loud", "l2"), ("quiet", "q1")):
        waiting.join(who, what)
    waiting.serve()
    waiting.join("loud", "l3")

    assert served(waiting) == ["q1", "l2", "l3"]


def test_one_has_so_many_places_and_no_more() -> None:
    waiting = line(each=2)

    assert [waiting.join("loud", what) for what in ("l1", "l2", "l3")] == [None, None, "l3"]
    assert served(waiting) == ["l1", "l2"]


def test_when_all_places_are_taken_whoever_has_most_gives_the_last_of_them() -> None:
    waiting = line(places=4)
    for who, what in (("loud", "l1"), ("loud", "l2"), ("loud", "l3"), ("quiet", "q1")):
        waiting.join(who, what)

    assert waiting.join("late", "a1") == "l3"
    assert served(waiting) == ["l1", "q1", "a1", "l2"]


def test_nobody_gives_way_to_whoever_would_have_more_places_then() -> None:
    waiting = line(places=3)
    for who, what in (("one", "1"), ("two", "2"), ("three", "3")):
        waiting.join(who, what)

    assert waiting.join("four", "4") == "4"
    assert waiting.join("one", "1 again") == "1 again"
    assert len(waiting) == 3
