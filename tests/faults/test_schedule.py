"""What a seed deals is the same each time, and in time everything is dealt."""

from random import Random

from tests.faults.faults import KINDS, Hit
from tests.faults.schedule import POINTS, deal

ROUNDS = 3_000


def test_a_seed_deals_the_same_again() -> None:
    one, other = Random(7), Random(7)
    assert [deal(one) for _ in range(20)] == [deal(other) for _ in range(20)]


def test_every_kind_every_point_and_every_control_is_dealt() -> None:
    random = Random(1)
    rounds = [deal(random) for _ in range(ROUNDS)]
    faults = [fault for dealt in rounds for fault in dealt.faults]
    points = {(one.target, one.at.point) for one in faults if isinstance(one.at, Hit)}
    assert {fault.kind for fault in faults} == KINDS
    assert points == {(service, point) for service, named in POINTS.items() for point in named}
    assert {tuple(action for _, action in dealt.controls) for dealt in rounds} == {
        (),
        ("cancel",),
        ("pause", "resume"),
    }


def test_a_point_is_armed_once_in_a_run() -> None:
    random = Random(1)
    for _ in range(ROUNDS):
        armed = [
            (one.target, one.at.point) for one in deal(random).faults if isinstance(one.at, Hit)
        ]
        assert len(armed) == len(set(armed))
