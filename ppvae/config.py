r"""Settings of training and of measuring: frozen records that print, go to JSON and back, and refuse unknown names.

The command line, config files and the keyword arguments of `fit`, `gaps` and `compare` are all made from these fields,
so that an option has one name and one default everywhere. This file imports nothing heavy.
"""

__all__ = [
    "SCHEDULES",
    "Annealing",
    "Config",
    "EvidenceConfig",
    "TrainConfig",
]

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every record of settings can do."""

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed.

        Raises:
            ValueError: If a name is no field; the known ones are listed.
        """
        self._check_names(changes)
        return replace(self, **changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The record that `to_dict` gave; absent fields keep their defaults.

        Raises:
            ValueError: If a name is no field; the known ones are listed.
        """
        cls._check_names(values)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Field name -> value, nested records as dicts."""
        return asdict(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The record that `to_json` gave."""
        return cls.from_dict(json.loads(text))

    def to_json(self) -> str:
        """The fields as JSON; an infinite number is written as `Infinity`."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def _check_names(cls, values: Mapping[str, Any]) -> None:
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f"; did you mean '{close[0]}'?" if close else ""
                raise ValueError(
                    f"{cls.__name__}: expected fields among {', '.join(known)}; got '{name}'{hint}"
                )


def option(default: Any, help: str) -> Any:
    """A field with the help text that the command line shows."""
    return field(default=default, metadata={"help": help})
