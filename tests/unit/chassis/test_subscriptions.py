"""Who parks what: the subscriptions of all services beside each other."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any, cast

from contracts.messages import AnnotateBatch, ControlRun, StartRun
from services.annotator import handlers as annotator
from services.annotator.sources import SOURCES
from services.cache import handlers as cache
from services.chassis.bus import Subscription


def subscriptions() -> list[Subscription]:
    names = ("on_start_run", "on_control_run", "hear_control", "on_decide_release")
    handlers = SimpleNamespace(**dict.fromkeys(names), on_annotate_batch=None, sources=SOURCES)
    engine: Any = None
    return [
        *annotator.subscriptions(cast(annotator.Handlers, handlers)),
        *cache.subscriptions(cache.Handlers(engine)),
    ]


def test_of_the_groups_of_a_topic_one_parks_what_has_no_type() -> None:
    groups = defaultdict(set)
    parking = defaultdict(set)
    for subscription in subscriptions():
        if subscription.group is not None:
            groups[subscription.topic].add(subscription.group)
        if subscription.parks_untyped:
            parking[subscription.topic].add(subscription.group)
    assert len(groups[StartRun.topic]) == 2
    assert {topic: len(parking[topic]) for topic in groups} == dict.fromkeys(groups, 1)


def test_unknown_commands_are_parked_by_one_group_of_their_topic() -> None:
    parking = {one.topic: one.group for one in subscriptions() if one.parks_unknown}
    work = {AnnotateBatch.topic.format(source=source): f"annotate-{source}" for source in SOURCES}
    assert parking == {StartRun.topic: "planner"} | work


def test_an_annotator_that_starts_hears_what_was_wanted_of_runs_a_while_ago() -> None:
    (hearing,) = [one for one in subscriptions() if one.group is None]
    assert hearing.topic == ControlRun.topic
    assert hearing.seconds_ago == annotator.CONTROL_SECONDS_AGO > 60
