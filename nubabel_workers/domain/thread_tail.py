"""Where to begin reading a thread of which one page is all that may be read."""

from decimal import Decimal

_ROOM_FOR_BURSTS = 2  # who calls the bot often does so in the middle of one; better fewer messages than not the newest


def tail_begins(root_ts: str, before_ts: str, *, replies: int, page: int) -> str | None:
    """A ts after which about half a page of messages stands, if people wrote evenly; None where one page holds all.

    Slack shows the oldest of a range first, so a range that holds more than a page hides the newest.
    replies: as Slack counts them, with the message at before_ts.
    """
    if replies <= page:  # the root makes up for the message that asks
        return None
    begin, end = Decimal(root_ts), Decimal(before_ts)  # a float would lose digits
    share = Decimal(page - 1) / (_ROOM_FOR_BURSTS * replies)
    return f"{end - (end - begin) * share:.6f}"
