"""Configuration: YAML and `-o a.b=c` overrides become frozen, typed models; every mistake is one line with its dotted path."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Base of every configuration section: immutable, unknown keys refused, defaults validated like given values."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
