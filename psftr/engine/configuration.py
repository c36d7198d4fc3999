"""From plain values, as run.json and the command line have them, to the shared settings and those of the method."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from psftr.methods import Method, find_method
from psftr.settings import CommonSettings, from_dict, to_dict

Common = TypeVar("Common", bound=CommonSettings)


def read_config(kind: type[Common], config: Mapping[str, Any]) -> tuple[Common, Method, Any]:
    """(shared settings, the method that `config` names, its settings).

    Raises PsftrError for an unknown method or setting, and for a value that does not fit.
    """
    method = find_method(config.get("method", CommonSettings().method))
    groups = {field.name for field in dataclasses.fields(method.settings)}
    own: Any = from_dict(method.settings, {key: value for key, value in config.items() if key in groups})
    common = from_dict(kind, {key: value for key, value in config.items() if key not in groups})
    return common, method, own


def write_config(common: CommonSettings, own: Any) -> dict[str, Any]:
    """The inverse of `read_config`."""
    return to_dict(common) | to_dict(own)
