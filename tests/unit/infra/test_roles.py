"""What the step that makes the roles accepts as passwords."""

import re

import pytest

from infra.errors import ClusterError
from infra.roles import ROLES, main, passwords

GIVEN = {f"{role.upper()}_PASSWORD": f"{role}-0.~_" for role in ROLES}


def test_each_role_has_its_own_password() -> None:
    assert passwords(GIVEN) == {
        "annobus": "annobus-0.~_",
        "annotator": "annotator-0.~_",
        "cache": "cache-0.~_",
        "gateway": "gateway-0.~_",
    }


def test_all_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(ClusterError, match=r"^ANNOTATOR_PASSWORD, CACHE_PASSWORD must be set"):
        passwords(GIVEN | {"ANNOTATOR_PASSWORD": "", "CACHE_PASSWORD": ""})


@pytest.mark.parametrize("password", ["p@ss", "p/ss", "p:ss", "p%ss", "p ss", "pÄss", "pass\n"])
def test_what_cannot_stand_in_an_address_is_refused_without_being_shown(password: str) -> None:
    with pytest.raises(
        ClusterError, match=r"^CACHE_PASSWORD cannot stand in an address"
    ) as refused:
        passwords(GIVEN | {"CACHE_PASSWORD": password})
    assert password not in str(refused.value)


@pytest.mark.parametrize("password", ["", "0451/x", "hid:den/x", "0451@x"])
def test_an_administrators_address_that_is_none_is_refused_without_being_shown(
    password: str,
) -> None:
    address = f"postgresql://postgres:{password}@nowhere:5432/postgres"
    with pytest.raises(SystemExit, match="not prepared: ADMIN_DATABASE_URL must be set") as ended:
        main(GIVEN | {"ADMIN_DATABASE_URL": address})
    assert not {"0451", "hid", "den"} & set(re.split(r"\W", str(ended.value)))
