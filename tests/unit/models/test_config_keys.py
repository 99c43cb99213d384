"""Every key of every family's config either changes something that can be seen, or is named when it is set."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from svcnb.models import sovits


def test_a_config_with_the_removed_key_shift_loads_with_one_warning_that_says_why(tmp_path: Path, caplog) -> None:
    stored = sovits.Config.small().to_dict()
    stored["train"]["key_shift_semitones"] = 3.0
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with caplog.at_level(logging.WARNING):
        assert sovits.Config.load(tmp_path / "config.json") == sovits.Config.small()
    (line,) = caplog.messages
    assert str(tmp_path / "config.json") in line and "key_shift_semitones" in line and "lowered the similarity" in line
