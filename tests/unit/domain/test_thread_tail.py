"""One page of a long thread is spent on its newest messages."""

import pytest

from nubabel_workers.domain.thread_tail import tail_begins


@pytest.mark.parametrize("replies", [1, 14, 15])
def test_a_thread_that_fits_is_read_from_its_beginning(replies: int) -> None:
    assert tail_begins("1000.000000", "2000.000000", replies=replies, page=15) is None


def test_of_a_longer_one_that_part_is_read_that_held_half_a_page_if_people_wrote_evenly() -> None:
    assert tail_begins("1795216000.000001", "1795216700.000001", replies=70, page=15) == "1795216630.000001"
