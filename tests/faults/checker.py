"""Proves that a run ended well whatever was done to the system: plain functions over a history.

Each returns what is wrong in words, nothing when nothing is. The numbers are those of the
invariants in CONTRIBUTING.md.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import inf

from contracts.messages import (
    AnnotationsChanged,
    BatchAnnotated,
    BatchDead,
    RunCompleted,
    RunFact,
    StartRun,
)
from tests.faults.history import BatchWrite, History

BATCH_FACTS = (BatchAnnotated.type, BatchDead.type)
# Where a key's order is promised: what is said of documents bears versions and epochs instead.
IN_ORDER = (StartRun.topic, RunFact.topic, AnnotationsChanged.topic)
SHOWN_MAX = 5
CALLS_END_SECONDS = 1.0
CALLS_TOLERANCE = 1.05
# In a second one more, because both ends may lie at a turn; over ten that is within the tolerance.
CALL_WINDOWS = ((1.0, 1.0), (10.0, 0.0))


def lost_orders(history: History) -> list[str]:
    """I1: who was answered 202 has one run, and it ended."""
    order = history.order
    wrong = []
    if not order.answers:
        wrong.append(f"no answer after {order.attempts} attempts")
    if len(set(order.answers)) > 1:
        wrong.append(f"one key was answered with several runs: {order.answers}")
    if order.runs_with_key != 1:
        wrong.append(f"{order.runs_with_key} runs were made of one order")
    # Who cancels a run that is about to end may come too late.
    cancels = any(one.action == "cancel" and one.accepted for one in history.controls)
    if history.state not in (("cancelled", "completed") if cancels else ("completed",)):
        wrong.append(f"the run is {history.state}")
    return wrong


def uneven_effects(history: History) -> list[str]:
    """I2: each gene of each source has one effect, and the counters say so."""
    wrong = []
    values = Counter((value.hgnc_id, value.source) for value in history.values)
    wrong += [f"{count} current versions of {what}" for what, count in values.items() if count > 1]
    scope = set(history.genes)
    present = Counter(one.source for one in history.values if one.digest and one.hgnc_id in scope)
    for one in history.sources:
        if one.total != len(history.genes):
            wrong.append(f"{one.source}: {one.total} genes of {len(history.genes)}")
        if one.done + one.no_data + one.failed + one.cancelled != one.total:
            wrong.append(f"{one.source}: {one} does not add up")
        ends = ("completed", "cancelled") if history.state == "cancelled" else ("completed",)
        if one.failed or one.state not in ends:
            wrong.append(f"{one.source}: {one.state}, {one.failed} genes failed")
        # What a source does by itself goes on when nobody waits for it any more.
        least_only = one.state == "cancelled"
        if one.done > present[one.source] or (one.done < present[one.source] and not least_only):
            wrong.append(f"{one.source}: {one.done} counted, {present[one.source]} stored")
    return wrong + _uneven_batches(history)


def _uneven_batches(history: History) -> list[str]:
    wrong = []
    ends = Counter(
        write.batch_id
        for write in history.writes
        if write.new_state == "done" and write.old_state != "done"
    )
    steps: Counter[str] = Counter()
    for write in history.writes:
        steps[write.batch_id] += write.step
    told = Counter(fact.batch_id for fact in history.facts if fact.type == BatchAnnotated.type)
    for batch in history.batches:
        name = f"{batch.kind} batch {batch.batch_id} of {batch.source}"
        cancelled = batch.state == "cancelled" and batch.kind == "fetch"
        if batch.state != "done" and not (cancelled and history.state == "cancelled"):
            wrong.append(f"{name} is {batch.state}")
        if ends[batch.batch_id] != (not cancelled):
            wrong.append(f"{name} ended {ends[batch.batch_id]} times")
        if batch.kind == "release":
            continue
        worked = steps[batch.batch_id]
        if batch.checkpoint != worked or (batch.genes != worked and not cancelled):
            wrong.append(
                f"{name}: {batch.genes} genes, checkpoint {batch.checkpoint}, worked {worked}"
            )
        # A run that was cancelled is not told what its sources go on to do by themselves.
        unheard = history.state == "cancelled" and not (batch.kind == "fetch" and not cancelled)
        if told[batch.batch_id] > 1 or (told[batch.batch_id] == 0 and not unheard):
            wrong.append(f"{name} was announced {told[batch.batch_id]} times")
    return wrong


def uneven_completions(history: History) -> list[str]:
    """I3: one completion, after everything that it completes, in the rows and in the topic."""
    rows = [fact.type for fact in history.facts]
    first: dict[str, str] = {}
    for record in history.arrived:
        if record.topic == RunFact.topic and record.key == history.order.answers[-1]:
            first.setdefault(record.event_id, record.type)
    wrong = []
    for where, types in (("rows", rows), ("topic", list(first.values()))):
        if types.count(RunCompleted.type) != 1:
            wrong.append(f"{types.count(RunCompleted.type)} completions in the {where}")
        elif any(kind in BATCH_FACTS for kind in types[types.index(RunCompleted.type) :]):
            wrong.append(f"a batch's fact comes after the completion in the {where}")
    return wrong


def disorder(history: History) -> list[str]:
    """I4: facts in order, and each key of each topic in the order of its outbox, without a gap."""
    wrong = []
    seqs = [fact.seq for fact in history.facts]
    if seqs != sorted(set(seqs)):
        wrong.append(f"facts are rows in the order {seqs}")
    announced: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in history.announced:
        announced[row.topic, row.key].append(row.event_id)
    arrived: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    told: list[int] = []
    for record in history.arrived:
        if record.seq is not None and record.event_id not in arrived[record.topic, record.key]:
            told.append(record.seq)
        arrived[record.topic, record.key].setdefault(record.event_id)
    if told != seqs:
        wrong.append(f"facts arrived in the order {told}, rows are {seqs}")
    for place, ids in announced.items():
        found = [one for one in arrived[place] if one in set(ids)]
        if missing := set(ids) - set(found):
            wrong.append(f"{place}: {len(missing)} of {len(ids)} messages never arrived")
        elif found != ids and place[0] in IN_ORDER:
            wrong.append(f"{place}: messages arrived in another order than they were announced")
    return wrong


def untrue_frames(history: History) -> list[str]:
    """I5: a client that comes back sees progress grow, each fact once, and the truth at the end."""
    wrong = []
    snapshots = [frame for frame in history.frames if frame.type == "snapshot"]
    for before, after in pairwise(snapshots):
        if after.seq < before.seq:
            wrong.append(f"a snapshot of seq {after.seq} came after {before.seq}")
        if (after.progress or 0) < (before.progress or 0):
            wrong.append(f"progress fell from {before.progress} to {after.progress}")
    seqs = [frame.seq for frame in history.frames if frame.type == "fact"]
    if seqs != (rows := [fact.seq for fact in history.facts]):
        wrong.append(f"the client was told of the facts {seqs}, rows are {rows}")
    truth = {one.source: (one.done, one.no_data, one.failed) for one in history.sources}
    if not snapshots:
        wrong.append("no snapshot came")
    elif (snapshots[-1].status, dict(snapshots[-1].counts)) != (history.state, truth):
        wrong.append(f"the last frame is {snapshots[-1]}, the truth is {history.state}, {truth}")
    return wrong


def fenced_writes(history: History) -> list[str]:
    """I6: a batch is changed only by who claimed it last, and a version is stored only in a
    transaction that does so."""
    claimants: dict[tuple[str, int], str] = {}
    admitted: set[tuple[str, str]] = set()
    wrong = []
    for write in history.writes:
        if write.new_token > write.old_token:
            claimants[write.batch_id, write.new_token] = write.writer
        elif _needs_lease(write):
            claimant = claimants.get((write.batch_id, write.old_token))
            if claimant != write.writer:
                wrong.append(
                    f"{write.writer} changed batch {write.batch_id} to {write.new_state}, "
                    f"which {claimant} had claimed with token {write.old_token}"
                )
            else:
                admitted.add((write.xid, write.source))
    for place, count in Counter(history.stored).items():
        if place not in admitted:
            wrong.append(f"{count} versions of {place[1]} were stored without a lease")
    return wrong


def _needs_lease(write: BatchWrite) -> bool:
    """Anybody may sweep a lease that is over, and take away the batch of a cancelled run."""
    swept = write.new_state == "pending" and write.lease_over
    return write.old_state == "leased" and not swept and write.new_state != "cancelled"


def wrong_values(history: History) -> list[str]:
    """What is stored is what the upstreams say, for every gene and source."""
    misspelt = [f"the digest of {what} is of another text" for what in history.misspelt]
    if history.expected is None:
        return misspelt
    found = {(one.hgnc_id, one.source): one.digest for one in history.values}
    expected = {(one.hgnc_id, one.source): one.digest for one in history.expected}
    if history.state == "cancelled":  # What was not begun is not there.
        expected = {place: digest for place, digest in expected.items() if place in found}
    return misspelt + [
        f"{place}: {found.get(place, 'nothing')} is stored, expected is {expected.get(place)}"
        for place in sorted(found.keys() | expected.keys())
        if found.get(place) != expected.get(place)
    ]


def late_calls(history: History) -> list[str]:
    """I7: a second after a pause or a cancel was answered no upstream is asked, until the run is
    resumed; where a fault is in the way, a second after all are ready again."""
    wrong = []
    for number, control in enumerate(history.controls):
        if control.action == "resume" or not control.accepted:
            continue
        until = history.controls[number + 1].asked if number + 1 < len(history.controls) else inf
        for call in history.calls:
            if control.answered < call < until:
                begins = max(
                    (over for struck, over in history.disturbed if struck < call),
                    default=control.answered,
                )
                late = call - max(begins, control.answered)
                if late > CALLS_END_SECONDS:
                    wrong.append(f"the upstream was asked {late:.2f} s after {control.action}")
    return wrong


def hurried_calls(history: History) -> list[str]:
    """I8: in no window is an upstream asked more often than it allows, by all workers together."""
    wrong = []
    calls = sorted(history.calls)
    for window, more in CALL_WINDOWS if history.calls_per_second else ():
        most = history.calls_per_second * window * CALLS_TOLERANCE + more
        first = 0
        for last, call in enumerate(calls):
            while calls[first] <= call - window:
                first += 1
            if last - first + 1 > most:
                wrong.append(f"{last - first + 1} calls in {window:g} s, {most:g} are accepted")
    return wrong


def unread(history: History) -> list[str]:
    """I9: the gateway shows what the documents say."""
    return [f"{gene} is shown otherwise than its document" for gene in history.unread]


def growth(history: History) -> list[str]:
    """I10: what a process takes is what it took before, when all is done."""
    return [
        f"{one.process}: {one.used:g} {one.what}, at first {one.at_first:g}, "
        f"at most {one.used_max:g} are accepted"
        for one in history.usage
        if one.used > one.used_max
    ]


def leftovers(history: History) -> list[str]:
    """Nothing that only the machine did to us is parked, and what nobody can handle is, once."""
    letters = Counter(history.dead_letters)
    wrong = [f"dead letter: {letter}" for letter in letters if letter not in history.poison]
    # Who is killed between a letter and its offset writes the letter again: the poison is a fault
    # itself, and one more may have been in the way.
    most = 1 if len(history.disturbed) <= 1 else inf
    return wrong + [
        f"{place} was parked {letters[place]} times"
        for place in history.poison
        if not 1 <= letters[place] <= most
    ]


def slow_recoveries(history: History) -> list[str]:
    """I11: what was hit answers again in time, and what was going on is done in time."""
    return [
        f"{one.fault}: {what} after {seconds:.1f} s, at most {most:g} s are accepted"
        for one in history.recoveries
        for what, seconds, most in (
            ("ready", one.ready_seconds, one.ready_seconds_max),
            ("settled", one.settled_seconds, one.settled_seconds_max),
        )
        if seconds is not None and seconds > most
    ]


CHECKS: Mapping[str, Callable[[History], Sequence[str]]] = {
    "I1": lost_orders,
    "I2": uneven_effects,
    "I3": uneven_completions,
    "I4": disorder,
    "I5": untrue_frames,
    "I6": fenced_writes,
    "I7": late_calls,
    "I8": hurried_calls,
    "I9": unread,
    "I10": growth,
    "I11": slow_recoveries,
    "values": wrong_values,
    "leftovers": leftovers,
}


def violations(history: History) -> dict[str, list[str]]:
    """By invariant, the first few of each; empty when all hold."""
    found = {name: list(check(history)) for name, check in CHECKS.items()}
    return {
        name: [*wrong[:SHOWN_MAX], *(["…"] if len(wrong) > SHOWN_MAX else [])]
        for name, wrong in found.items()
        if wrong
    }
