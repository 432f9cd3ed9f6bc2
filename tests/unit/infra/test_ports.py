"""Ports that are free, remembered, and none that an outgoing connection may be given."""

import socket
from pathlib import Path

import pytest

from infra import ports
from infra.errors import ClusterError

NAMES = ("gateway", "cache", "mirror")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ports.json"


def test_ports_are_remembered_and_a_taken_one_is_replaced(file: Path) -> None:
    first = ports.choose(file, NAMES)
    assert len(set(first.values())) == 3
    assert ports.choose(file, NAMES) == first
    with socket.create_server((ports.HOST, first["cache"])):
        second = ports.choose(file, NAMES)
    assert second["cache"] not in first.values()
    assert second == first | {"cache": second["cache"]}
    assert ports.choose(file, NAMES) == second


def test_the_port_of_what_is_not_started_this_time_is_remembered(file: Path) -> None:
    first = ports.choose(file, NAMES)
    ports.choose(file, NAMES[:1], wanted={"gateway": ports.find_free()})
    assert ports.choose(file, NAMES[1:]) == {name: first[name] for name in NAMES[1:]}


def test_a_wanted_port_comes_before_a_remembered_one_and_a_default_after_it(file: Path) -> None:
    default, wanted = {"gateway": ports.find_free()}, {"gateway": ports.find_free()}
    assert ports.choose(file, ["gateway"], default=default) == default
    assert ports.choose(file, ["gateway"], wanted=wanted, default=default) == wanted
    assert ports.choose(file, ["gateway"], default=default) == wanted


def test_a_port_of_what_does_not_run_yet_is_given_to_nobody_else(file: Path) -> None:
    first = ports.choose(file, NAMES)
    second = ports.choose(file, NAMES, taken=[first["cache"]])
    assert second["cache"] not in first.values()


def test_a_damaged_memory_of_ports_is_forgotten(file: Path) -> None:
    for damaged in ("{", '{"gateway": "x"}'):
        file.write_text(damaged)
        first = ports.choose(file, NAMES)
        assert ports.choose(file, NAMES) == first


@pytest.mark.parametrize(
    ("outgoing", "lowest", "highest"),
    [
        ("32768\t60999", 15_000, 32_767),
        ("10000\t50000", 50_001, 65_535),
        ("20000\t62000", 15_000, 19_999),
        ("1024\t65535", 15_000, 65_535),  # Whatever is served is among them.
    ],
)
def test_no_port_is_one_that_an_outgoing_connection_may_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outgoing: str, lowest: int, highest: int
) -> None:
    (tmp_path / "range").write_text(outgoing)
    monkeypatch.setattr(ports, "EPHEMERAL_PORTS", tmp_path / "range")
    tried: set[int] = set()
    monkeypatch.setattr(ports, "is_free", tried.add)
    with pytest.raises(ClusterError, match=f"between {lowest} and {highest}"):
        ports.find_free()
    assert lowest <= min(tried) <= max(tried) <= highest
