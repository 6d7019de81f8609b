"""How much is measured: a full run takes about ten minutes, a quick one about two, a smoke run seconds."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Sizes:
    """Numbers of executions, by row."""

    warm_up: int = 100
    idle_s: float = 3.0
    slow: int = 60  # at 5 a second
    fast: int = 450  # at 30 a second
    saturated: int = 1000
    saturated_in_flight: int = 100
    floor_slow: int = 40
    floor_fast: int = 240
    floor_saturated: int = 600
    in_flight: tuple[int, ...] = (100, 1000)
    most_in_flight: int = 10_000
    most_in_flight_s: float = 100.0  # the whole row
    with_task_events: bool = True
    lookups: int = 500
    streamed_words: int = 150
    limited: int = 200
    decoder_rounds: int = 30
    callbacks_s: float = 10.0
    followed: int = 100  # executions
    listeners: int = 500  # of them all
    told_s: float = 8.0
    tool_calls_s: float = 8.0
    quiet_s: float = 40.0  # of each part of the fairness row
    flood: int = 10_000
    saturated_each: int = 600
    organizations: int = 1000
    turnover: int = 400
    waiting_rows: int = 100_000
    calm_s: float = 30.0  # of the placement row, before servers are harmed
    harmed_s: float = 50.0
    cancelled: int = 40  # on each surface
    cancelled_by_command: int = 10  # each is a process of its own
    warm_sessions: int = 10  # of each way
    with_real_opencode: bool = True


FULL = Sizes()
QUICK = Sizes(
    warm_up=40,
    idle_s=1.0,
    slow=15,
    fast=90,
    saturated=200,
    floor_slow=10,
    floor_fast=60,
    floor_saturated=200,
    in_flight=(100,),
    most_in_flight=1000,
    most_in_flight_s=12.0,
    with_task_events=False,
    lookups=200,
    streamed_words=60,
    limited=60,
    decoder_rounds=8,
    callbacks_s=3.0,
    followed=20,
    listeners=100,
    told_s=2.0,
    tool_calls_s=2.0,
    quiet_s=10.0,
    flood=500,
    saturated_each=200,
    organizations=150,
    turnover=60,
    waiting_rows=10_000,
    calm_s=15.0,
    harmed_s=25.0,
    cancelled=15,
    cancelled_by_command=3,
    warm_sessions=5,
)
# To see that rows work; what the figures are means nothing.
SMOKE = replace(
    QUICK,
    warm_up=2,
    idle_s=0.1,
    slow=2,
    fast=2,
    saturated=2,
    saturated_in_flight=2,
    floor_slow=2,
    floor_fast=2,
    floor_saturated=2,
    in_flight=(2,),
    most_in_flight=4,
    most_in_flight_s=2.0,
    with_task_events=True,
    lookups=2,
    streamed_words=10,
    limited=2,
    decoder_rounds=1,
    callbacks_s=0.2,
    followed=2,
    listeners=4,
    told_s=0.6,
    tool_calls_s=0.2,
    quiet_s=1.0,
    flood=20,
    saturated_each=4,
    organizations=25,
    turnover=4,
    waiting_rows=500,
    calm_s=2.0,
    harmed_s=4.0,
    cancelled=1,
    cancelled_by_command=1,
    warm_sessions=1,
    with_real_opencode=False,
)
