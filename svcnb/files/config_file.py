"""What the config files of all model families share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of a config file: unknown keys are an error, values are checked when they are set, too."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)
