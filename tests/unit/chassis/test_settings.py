"""Settings: what production refuses, and what a topic may be called."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from services.chassis.settings import SharedSettings


def test_production_refuses_failpoints(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="refused in production"):
        SharedSettings(failpoints_folder=tmp_path)


def test_a_topic_prefix_is_what_a_topic_name_may_begin_with() -> None:
    with pytest.raises(ValidationError, match="topic_prefix"):
        SharedSettings(topic_prefix="Not Allowed/")
