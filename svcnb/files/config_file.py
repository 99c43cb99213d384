"""What the config files of all model families share: sections, and keys that are read, kept and change nothing here."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

UNUSED = "unused"
log = logging.getLogger(__name__)


def unused(default: Any, reason: str) -> Any:
    """A key of the family that changes nothing here; it is kept, and `reason` is logged where it is not at its default.

    Every other key of a config acts (tests/unit/models/test_config_keys.py shows each).
    """
    return Field(default, json_schema_extra={UNUSED: reason})


class Section(BaseModel):
    """A section of a config file: unknown keys are an error, values are checked when they are set, too."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class ConfigFile(BaseModel):
    """A family's config, with or without sections."""

    def unused_keys(self) -> dict[str, str]:
        """Keys that are set and change nothing here, with the reason: {"train.port": "..."}; unknown ones too."""
        return dict(_unused_below(self, ""))

    def warn_of_unused(self, path: Path | str) -> None:
        """One line for each key of the file `path` that is set and changes nothing; one for all unknown keys."""
        found = self.unused_keys()
        for key, reason in found.items():
            if reason:
                log.warning("%s: %s is not used: %s", path, key, reason)
        if unknown := [key for key, reason in found.items() if not reason]:
            log.warning("%s: keys that are not known here and not used: %s", path, ", ".join(unknown))


def _unused_below(section: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in type(section).model_fields.items():
        value, extra = getattr(section, name), field.json_schema_extra
        if isinstance(value, BaseModel):
            yield from _unused_below(value, f"{prefix}{name}.")
        elif (
            isinstance(extra, dict)
            and UNUSED in extra
            and value != field.get_default(call_default_factory=True)
        ):
            yield f"{prefix}{name}", extra[UNUSED]
    yield from ((f"{prefix}{name}", "") for name in section.model_extra or ())
