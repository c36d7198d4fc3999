"""Plain flags: a parser whose mistakes are one line, and flags made of settings classes or checked numbers."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

from psftr.errors import PsftrError
from psftr.files import nearest

Settings = TypeVar("Settings")


class FlagParser(argparse.ArgumentParser):
    """An ArgumentParser that raises PsftrError for what it cannot read: one line, with the nearest right name."""

    given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.given = list(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        flags = [name for action in self._actions for name in action.option_strings]
        for word in self.given:  # argparse would rather complain about what is missing
            flag = word.partition("=")[0]
            if flag.startswith("--") and len(flag) > 2 and not any(name.startswith(flag) for name in flags):
                raise PsftrError(f"no flag {flag}{nearest(flag, flags)}; `{self.prog} --help` lists all")
        if unknown := re.fullmatch(r"unrecognized arguments: (.*)", message):
            raise PsftrError(f"unexpected {unknown[1]}; `{self.prog} --help` lists what it takes")
        if missing := re.fullmatch(r"the following arguments are required: (.*)", message):
            raise PsftrError(f"{missing[1]} is missing; `{self.prog} --help` says what it is")
        # "argument --stride: must be …", "argument --dtype: invalid choice: 'x' (choose from a, b)"
        named = re.fullmatch(r"argument (\S+?)(?:/\S+)?: (.*)", message, flags=re.DOTALL)
        if named is None:
            raise PsftrError(message)
        name, complaint = named[1], named[2]
        if wrong := re.fullmatch(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", complaint):
            known = [choice.strip(" '\"") for choice in wrong[2].split(",")]
            raise PsftrError(f"{name} {wrong[1]} is unknown{nearest(wrong[1], known)}; choose {', '.join(known)}")
        expected = {"expected one argument": "needs a value", "expected at least one argument": "needs a value"}
        raise PsftrError(f"{name} {expected.get(complaint, complaint)}")


def add_settings(parser: Any, kind: type, *, leave_out: Iterable[str] = (), help: dict[str, str] | None = None) -> None:
    """A flag for each setting of a class; flags that are not given take the class's default.

    help: other words for some of them, where the default is not the class's own.
    """
    hints = get_type_hints(kind)
    for one in dataclasses.fields(kind):
        if one.name in leave_out:
            continue
        facts = one.metadata
        told = (help or {}).get(one.name)
        if told is None:
            told = facts["help"] + ("" if one.default is None else f" (default {one.default})")
        parser.add_argument(
            flag_of(one.name),
            type=_reader(kind, one.name, hints[one.name]),
            metavar="|".join(facts["choices"]) or None,
            help=told.replace("%", "%%"),
        )


def settings_from(kind: type[Settings], args: argparse.Namespace) -> Settings:
    """The settings that the flags of `add_settings` give. Raises PsftrError."""
    names = [one.name for one in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: value for name in names if (value := getattr(args, name, None)) is not None})


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def number(
    kind: type, *, least: float | None = None, most: float | None = None, above: float | None = None
) -> Callable[[str], Any]:
    """What reads a number of a flag within bounds; for flags that belong to no settings class."""
    words = "a whole number" if kind is int else "a number"

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {words}, got {text!r}") from None
        for bound, holds, word in (
            (least, lambda v, b: v >= b, "at least"),
            (above, lambda v, b: v > b, "above"),
            (most, lambda v, b: v <= b, "at most"),
        ):
            if bound is not None and not holds(value, bound):  # NaN holds nowhere
                raise argparse.ArgumentTypeError(f"must be {word} {bound:g}, got {text}")
        return value

    return read


def _reader(kind: type, name: str, hint: Any) -> Callable[[str], Any]:
    """Text of a flag -> the setting's value, checked by its class."""
    wanted: Sequence[Any] = [part for part in (get_args(hint) or (hint,)) if part is not type(None)]

    def read(text: str) -> Any:
        value: Any = text
        if wanted[0] in (int, float):
            value = number(wanted[0])(text)
        try:
            kind(**{name: value})
        except PsftrError as error:
            raise argparse.ArgumentTypeError(re.sub(rf"^{name}(?=\W)=?", "", str(error)).strip()) from None
        return value

    return read
