"""An order's body: what is refused, at once and in few words, however large it is."""

import pytest
from pydantic import ValidationError

from services.gateway.errors import OrderInvalid
from services.gateway.http.bodies import UNKNOWN_FIELDS_MAX
from services.gateway.http.runs import Order


@pytest.mark.parametrize("said", [1, 1.0, "true", "yes"])
def test_what_only_looks_like_true_starts_nothing(said: object) -> None:
    with pytest.raises(ValidationError, match="all"):
        Order.model_validate({"all": said})


def test_unknown_fields_are_named_with_what_is_accepted() -> None:
    with pytest.raises(OrderInvalid, match="'/gene'; accepted: sources, genes, panel, all, name"):
        Order.model_validate({"gene": "PKD1"})


def test_a_million_unknown_fields_get_a_short_answer() -> None:
    with pytest.raises(OrderInvalid) as refused:
        Order.model_validate({f"field{number}": 1 for number in range(1_000_000)})
    assert len(refused.value.errors) == UNKNOWN_FIELDS_MAX
    assert len(str(refused.value)) < 200


def test_one_wrong_gene_among_fifty_thousand_is_one_error() -> None:
    with pytest.raises(ValidationError) as refused:
        Order.model_validate({"genes": list(range(50_000))})
    assert refused.value.error_count() == 1
