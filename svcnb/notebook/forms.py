"""The texts made from options: lines of a notebook's form, and rows of README's tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from svcnb.files.options import Option


def form_lines(option: Option, field: str, *, value: Any = None, note: str = "") -> list[str]:
    """The two lines of a form field on Colab: its help and its assignment.

    Args:
        field: the notebook's name for it.
        value: a default of the notebook's own.
        note: added to the help, for what only this notebook does.
    """
    value = form_default(option) if value is None else value
    help_text = "; ".join(part for part in (option.sentence.removesuffix("."), _unset(option), note) if part)
    written = repr(value) if isinstance(value, bool) else json.dumps(value)
    return [f"#@markdown {help_text}.", f"{field} = {written}  #@param {_widget(option)}"]


def form_default(option: Option) -> Any:
    """The default in a form, where None is 0 for a number and empty for a text."""
    if option.default is None or option.default == ():
        return {bool: False, int: 0, float: 0.0}.get(option.kind, "")
    return str(option.default) if isinstance(option.default, Path) else option.default


def _unset(option: Option) -> str:
    is_a_number = option.kind in (int, float)
    takes_zero = is_a_number and dict(option.limits).get("ge", 1) <= 0  # then it cannot stand for None
    if option.default not in (None, ()) or option.kind is bool or takes_zero or not option.unset:
        return ""
    return f"{0 if is_a_number else 'empty'} = {option.unset}"


def _widget(option: Option) -> str:
    """What stands behind #@param."""
    values = [
        choice for choice in option.choices if option.kind not in (int, float) or not isinstance(choice, str)
    ]
    if option.kind is bool:
        return json.dumps({"type": "boolean"})
    if values:
        more = {"allow-input": True} if option.is_open else {}
        more |= {"type": "raw"} if option.kind in (int, float) else {}
        return json.dumps(values) + (f" {json.dumps(more)}" if more else "")
    if option.slider:
        return json.dumps({"type": "slider"} | dict(zip(("min", "max", "step"), option.slider, strict=True)))
    return json.dumps({"type": {int: "integer", float: "number"}.get(option.kind, "string")})


def table_rows(options: Sequence[Option], fields: Mapping[str, str], *, own_flags: bool) -> list[str]:
    """Rows of a table for people who come from another program, as Markdown.

    Args:
        fields: option name -> field of our notebook.
        own_flags: a column for our flag, where it has another name than theirs.

    Returns:
        a row for each option that the other program has, then for each of ours that is on the form.
    """
    known = [option for option in options if option.original]
    ours = [option for option in options if not option.original and option.name in fields]
    rows = []
    for option in known + ours:
        flag = next(flag for flag in option.flags[::-1] if flag.startswith("--"))
        text = (
            option.help
            + (f" ({option.unit})" if option.unit else "")
            + (f"; {option.note}" if option.note else "")
        )
        cells = [f"`{' '.join(option.original)}`" if option.original else ""]
        cells += [f"`{flag}`"] if own_flags else []
        cells += [f"`{fields[option.name]}`" if option.name in fields else "", option.default_text]
        cells += [text if own_flags or option.original else f"`{flag}`: {text}"]
        rows.append(f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |"))
    return rows
