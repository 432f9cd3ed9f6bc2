"""The compose file and the Dockerfile say what the code and the embedded cluster say, and give
nobody more than it needs."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

from infra import kafka, postgres
from infra.addresses import DATABASE_URLS
from services.annotator.settings import AnnotatorSettings
from services.annotator.sources import UPSTREAMS
from services.cache.settings import CacheSettings
from services.chassis.process import STOP_SECONDS
from services.chassis.settings import ServiceSettings, SharedSettings
from services.cli.system_checks import CONNECTIONS
from services.gateway.settings import GatewaySettings
from tests.system import ROOT

TEXT = (ROOT / "infra" / "compose.yaml").read_text()
COMPOSE: Mapping[str, Any] = yaml.safe_load(TEXT)
CONTAINERS: Mapping[str, Any] = COMPOSE["services"]
DOCKERFILE = (ROOT / "infra" / "Dockerfile").read_text()
SETTINGS: Mapping[str, type[ServiceSettings]] = {
    "annotator": AnnotatorSettings,
    "cache": CacheSettings,
    "gateway": GatewaySettings,
}
OURS = [name for name, one in CONTAINERS.items() if one["image"].endswith(":local")]
FOR_THE_COMMAND_LINE = {"ANNOBUS_URL"}
ANNOTATORS = 2


def waited_for(condition: str) -> set[str]:
    """The containers that another one waits for in this way."""
    return {
        name
        for one in CONTAINERS.values()
        for name, wait in one.get("depends_on", {}).items()
        if wait["condition"] == condition
    }


ONE_SHOT = waited_for("service_completed_successfully")


@pytest.mark.parametrize("name", CONTAINERS)
def test_what_is_published_is_on_loopback(name: str) -> None:
    for port in CONTAINERS[name].get("ports", []):
        assert port.startswith("127.0.0.1:"), port


def test_only_the_gateway_is_published() -> None:
    assert {name for name, one in CONTAINERS.items() if "ports" in one} == {"gateway"}


def test_every_password_is_the_users_own_and_its_absence_is_said() -> None:
    used = set(re.findall(r"\$\{(\w*PASSWORD)\b[^}]*\}", TEXT))
    demanded = re.findall(r"\$\{(\w*PASSWORD):\?([^}]*)\}", TEXT)
    assert used == {name for name, _ in demanded}
    assert used == {"POSTGRES_PASSWORD", *(f"{role.upper()}_PASSWORD" for role in roles())}
    for _, sentence in demanded:
        assert "README.md" in sentence
    for name, one in CONTAINERS.items():
        for variable, value in one.get("environment", {}).items():
            if variable.endswith("PASSWORD"):
                assert value.startswith("${"), (name, variable)
            if "://" in (value or "") and variable.endswith("_URL") and "@" in value:
                assert re.fullmatch(r"postgresql://(\w+):\$\{\w+\}@postgres:5432/\w+", value), value


def roles() -> list[str]:
    return list(DATABASE_URLS.values())


@pytest.mark.parametrize("name", CONTAINERS)
def test_each_is_asked_whether_it_is_well_or_runs_once(name: str) -> None:
    one = CONTAINERS[name]
    assert ("healthcheck" in one) != (name in ONE_SHOT)
    assert ("restart" in one) != (name in ONE_SHOT)
    if "healthcheck" in one:
        assert one["healthcheck"]["test"][0] == "CMD"  # No shell, which would hide a signal.


def test_an_address_is_in_the_containers_that_need_it_and_in_no_other() -> None:
    found = {
        (name, variable): re.match(r"postgresql://(\w+):\$\{(\w+)_PASSWORD\}", value)
        for name, one in CONTAINERS.items()
        for variable, value in one.get("environment", {}).items()
        if variable.endswith("DATABASE_URL")
    }
    assert {place: address and address.groups() for place, address in found.items()} == {
        ("roles", "ADMIN_DATABASE_URL"): ("postgres", "POSTGRES"),
        ("migrate", "ANNOBUS_DATABASE_URL"): ("annobus", "ANNOBUS"),
        ("annotator", "ANNOTATOR_DATABASE_URL"): ("annotator", "ANNOTATOR"),
        ("cache", "CACHE_DATABASE_URL"): ("cache", "CACHE"),
        ("gateway", "GATEWAY_DATABASE_URL"): ("gateway", "GATEWAY"),
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_the_variables_of_a_service_are_those_that_it_reads(name: str) -> None:
    settings, given = SETTINGS[name], set(CONTAINERS[name]["environment"])
    own, shared = variables(settings), variables(SharedSettings)
    assert given - FOR_THE_COMMAND_LINE <= own | shared
    required = {
        f"{name.upper()}_{field.upper()}"
        for field, about in settings.model_fields.items()
        if about.is_required()
    }
    # What has a default for one machine: where it listens and where the broker is.
    required |= {f"{name.upper()}_HOST", f"{name.upper()}_PORT", "ANNOBUS_KAFKA_BOOTSTRAP"}
    assert required <= given


def variables(settings: type[ServiceSettings] | type[SharedSettings]) -> set[str]:
    prefix = settings.model_config["env_prefix"]
    return {f"{prefix}{field.upper()}" for field in settings.model_fields} - {f"{prefix}SHARED"}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_service_can_be_scaled(name: str) -> None:
    one = CONTAINERS[name]
    assert "container_name" not in one
    # One name for all containers of a service would be one name for two living processes.
    assert f"{name.upper()}_SLOT" not in one["environment"]
    assert "hostname" not in one


def test_two_annotators_find_as_many_connections_as_they_may_open() -> None:
    each = {
        name: one.pool_size + one.pool_overflow + one.sessions for name, one in CONNECTIONS.items()
    }
    may_open = each["gateway"] + each["cache"] + ANNOTATORS * each["annotator"]
    assert may_open < int(server_settings()["max_connections"])


def server_settings() -> dict[str, str]:
    program, *options = CONTAINERS["postgres"]["command"]
    assert program == "postgres"
    return dict(option.removeprefix("--").split("=", 1) for option in options)


def test_postgres_is_set_as_the_embedded_one_is() -> None:
    where = {"listen_addresses", "unix_socket_directories"}
    assert server_settings() == {
        name: value for name, value in postgres.SETTINGS.items() if name not in where
    }
    environment = CONTAINERS["postgres"]["environment"]
    assert environment["POSTGRES_INITDB_ARGS"].split() == list(postgres.TEXT)
    # From 18 on the image keeps a folder for each version below this one.
    assert CONTAINERS["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]


def test_kafka_is_set_as_the_embedded_one_is() -> None:
    lines = [line for line in kafka.SERVER.splitlines() if line and not line.startswith("#")]
    embedded = dict(line.split("=", 1) for line in lines)
    environment = CONTAINERS["kafka"]["environment"]
    found = {
        variable.removeprefix("KAFKA_").replace("_", ".").lower(): value
        for variable, value in environment.items()
        if variable not in ("KAFKA_HEAP_OPTS", "CLUSTER_ID")
    }
    where = {"controller.quorum.voters", "listeners", "advertised.listeners", "log.dirs"}
    # Said here, as in the examples of the image; it is also the default.
    assert set(found) == set(embedded) | {"listener.security.protocol.map"}
    assert {name: found[name] for name in embedded if name not in where} == {
        name: value for name, value in embedded.items() if name not in where
    }
    assert set(environment["KAFKA_HEAP_OPTS"].split()) <= set(kafka.JVM_OPTIONS)
    (volume,) = CONTAINERS["kafka"]["volumes"]
    assert volume.endswith(f":{environment['KAFKA_LOG_DIRS']}")
    assert "mem_limit" in CONTAINERS["kafka"]
    assert len(environment["CLUSTER_ID"]) == 22  # 16 bytes in base 64.


def test_with_the_mirror_every_upstream_is_asked_there() -> None:
    added = dotenv_values(ROOT / "infra" / "mirror.env")
    assert set(added) == {"COMPOSE_PROFILES", "ANNOTATOR_UPSTREAMS"}
    assert CONTAINERS["mirror"]["profiles"] == [added["COMPOSE_PROFILES"]]
    command = CONTAINERS["mirror"]["command"]
    base = f"http://mirror:{command[command.index('--port') + 1]}"
    settings = AnnotatorSettings.model_validate(
        {
            "database_url": "postgresql://",
            "raw_folder": ".",
            "upstreams": yaml.safe_load(str(added["ANNOTATOR_UPSTREAMS"])),
        }
    )
    assert {name: one.base_url for name, one in settings.upstreams.items()} == {
        name: f"{base}/{name}" for name in UPSTREAMS
    }


@pytest.mark.parametrize("name", OURS)
def test_our_containers_may_do_little_and_can_end_themselves(name: str) -> None:
    one = CONTAINERS[name]
    assert one["init"] is True
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in one
    assert "privileged" not in one


@pytest.mark.parametrize("name", SETTINGS)
def test_a_service_has_more_time_to_stop_than_it_takes(name: str) -> None:
    assert int(CONTAINERS[name]["stop_grace_period"].removesuffix("s")) > STOP_SECONDS


def test_what_annotators_fetch_is_kept_in_one_volume_that_all_share() -> None:
    one = CONTAINERS["annotator"]
    assert one["volumes"] == [f"raw:{one['environment']['ANNOTATOR_RAW_FOLDER']}"]
    used = {
        volume.split(":")[0] for each in CONTAINERS.values() for volume in each.get("volumes", [])
    }
    assert used == set(COMPOSE["volumes"])


def test_images_are_named_with_their_version() -> None:
    versions = {one["image"].split(":")[1] for one in CONTAINERS.values()}
    assert versions == {"18", "4.3.1", "local"}
    built = {one["image"] for one in CONTAINERS.values() if "build" in one}
    assert built == {CONTAINERS[name]["image"] for name in OURS}
    # Nobody has those names at a registry, or somebody else has.
    assert {CONTAINERS[name]["pull_policy"] for name in OURS} == {"never"}


def test_the_image_is_pinned_and_runs_as_nobody_in_particular() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\w+)$", DOCKERFILE, re.MULTILINE)
    names = {name for _, name in stages}
    assert {base for base, _ in stages} - names == {"python:3.11-slim-bookworm"}
    targets = {one["build"]["target"] for one in CONTAINERS.values() if "build" in one}
    for target in targets:
        (stage,) = re.findall(
            rf"^FROM \S+ AS {target}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL
        )
        users = re.findall(r"^USER (\S+)$", stage, re.MULTILINE)
        assert users[-1] not in ("root", "0")
    installs = DOCKERFILE.replace("\\\n", "").splitlines()
    for line in installs:
        if "--requirement" in line:
            assert "--require-hashes" in line
    assert "dev.txt" not in DOCKERFILE
    for line in re.findall(r"^(?:CMD|ENTRYPOINT) (.*)$", DOCKERFILE, re.MULTILINE):
        assert line.startswith("[")  # A shell between would keep the signal to itself.


def test_an_image_is_built_from_the_code_alone() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = set(re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE))
    wanted = {path.split("/")[0] for line in copied for path in line.split()}
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == wanted
