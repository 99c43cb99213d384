"""One table of options: what every option of a verb is called, means and may be, written once, in its settings class.

    class CutSettings(Settings):
        threshold_db: float = option(-40.0, "level below which a frame is silent", unit="dBFS", ge=-100, le=-1)

    options_of(CutSettings)  # the same as records

The command line, the notebooks' forms, the panel and the tables in README are made of these records.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from svcnb import SvcError

GROUPS = {
    "main": "main", "melody": "melody (f0)", "voice": "voice", "quality": "quality", "files": "files and machine",
}  # fmt: skip
NO_LIMIT = 2**31  # an upper bound from here on only guards the number type: not worth telling


class SettingsError(SvcError):
    """A setting is out of range or unknown; the message names its flag."""


class Settings(BaseModel):
    """What a verb can be told. A wrong value is one line that names the option, its flag and what is accepted.

    Attributes:
        not_offered: fields of a parent class that have no effect here: no flag, no field on a form.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    not_offered: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(
                "; ".join(_explain(type(self), problem) for problem in error.errors())
            ) from None


def option(
    default: Any,
    help: str,
    *,
    flags: str = "",
    group: Literal["main", "melody", "voice", "quality", "files"] = "main",
    advanced: bool = False,
    slider: tuple[float, float, float] | None = None,
    unset: str = "",
    **more: Any,
) -> Any:
    """A field of a settings class that users set.

    Args:
        help: one line, lower case, without the default, the unit and the range, which are added.
        flags: on the command line, apart by spaces; else those of the original, else -- and the name. A bool that is on
            by default has a flag that switches it off.
        advanced: below the others on forms, folded away on the panel.
        slider: lowest, highest and step on forms and the panel, where they are narrower than what is accepted.
        unset: what None stands for, e.g. "the config's".
        more: `unit`; `original` (the flags that the original program has for it, accepted too), `note` (how the original
            differs), `aliases` (more flags that are accepted), `suggestions` (values to offer where others work as
            well), and pydantic's limits.
    """
    own = {"flags": flags, "group": group, "advanced": advanced, "slider": slider, "unset": unset}
    for name in ("unit", "original", "note", "aliases"):
        own[name] = more.pop(name, "")
    own["suggestions"] = more.pop("suggestions", ())
    return Field(default, description=help, json_schema_extra={"option": own}, **more)


@dataclass(frozen=True)
class Option:
    """One option of a verb, as its settings class has it.

    Attributes:
        name: of the field.
        kind: bool, int, float, str or Path; of each value, where it takes `many`.
        flags: shown in the help; `aliases` are accepted besides.
        original: flags of the original program for it, shown in README; none where it has no such option.
        choices: all values that it takes, or those to suggest where `is_open`; empty where that says nothing.
        limits: ge, gt, le and lt, where they are.
    """

    name: str
    default: Any
    help: str
    kind: type
    flags: tuple[str, ...]
    aliases: tuple[str, ...]
    original: tuple[str, ...]
    group: str
    advanced: bool
    choices: tuple[Any, ...]
    is_open: bool
    many: bool
    limits: tuple[tuple[str, float], ...]
    slider: tuple[float, float, float] | None
    unit: str
    unset: str
    note: str

    @cached_property
    def label(self) -> str:
        """Its long flag in words."""
        flag = next(
            (flag for flag in self.flags if flag.startswith("--") and self.default is not True), self.name
        )
        return flag.removeprefix("--").replace("_", " ")

    @property
    def range_text(self) -> str:
        """from -36 to 36; above 0; at least 1; or nothing."""
        limits = dict(self.limits)
        low, over, high, below = (limits.get(name) for name in ("ge", "gt", "le", "lt"))
        high = None if high is not None and high >= NO_LIMIT else high
        start = f"above {over:g}" if over is not None else f"from {low:g}" if low is not None else ""
        if below is not None:
            return f"{start} and below {below:g}" if start else f"below {below:g}"
        if high is None:
            return start.replace("from", "at least")
        return f"{start} to {high:g}" if start else f"at most {high:g}"

    @property
    def default_text(self) -> str:
        """The default as one writes it; for None, what that stands for."""
        if self.default is None or self.default == ():
            return self.unset
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def sentence(self) -> str:
        """The help text as a sentence with the unit, for forms and the panel."""
        unit = f" ({self.unit})" if self.unit else ""
        starts_with_a_word = (
            self.help.split(maxsplit=1)[0].strip(":,;").isalpha()
        )  # f0 and fp16 stay as they are
        return f"{self.help[0].upper() if starts_with_a_word else self.help[0]}{self.help[1:]}{unit}."


def options_of(settings_class: type[Settings]) -> dict[str, Option]:
    """The options of a settings class by name, in its order."""
    fields = settings_class.model_fields.items()
    found = {
        name: _read_option(name, info) for name, info in fields if name not in settings_class.not_offered
    }
    return {name: record for name, record in found.items() if record is not None}


def _read_option(name: str, info: FieldInfo) -> Option | None:
    own = (info.json_schema_extra or {}).get("option")
    if own is None:
        return None
    kind, words, is_open, many = _read_annotation(info.annotation)
    limits = [
        (k, getattr(bound, k))
        for bound in info.metadata
        for k in ("ge", "gt", "le", "lt")
        if hasattr(bound, k)
    ]
    original = tuple(own["original"].split())
    flags = tuple(own["flags"].split()) or original or (f"--{name}",)
    accepted = (*own["aliases"].split(), *original)
    return Option(
        name,
        info.default,
        info.description,
        kind,
        flags,
        tuple(f for f in accepted if f not in flags),
        original,
        own["group"],
        own["advanced"],
        words or tuple(own["suggestions"]),
        is_open=is_open,
        many=many,
        limits=tuple(limits),
        slider=own["slider"],
        unit=own["unit"],
        unset=own["unset"],
        note=own["note"],
    )


def _read_annotation(annotation: Any) -> tuple[type, tuple[str, ...], bool, bool]:
    """Kind, the words of a Literal, whether other values than these work too, and whether it takes several."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kinds, words, many = [], (), False
    for part in parts:
        if get_origin(part) is Literal:
            words += get_args(part)
        elif get_origin(part) is tuple:
            many, part = True, get_args(part)[0]
            kinds.append(part)
        elif part is not NoneType:
            kinds.append(part)
    kind = next((known for known in (bool, int, float, Path) if known in kinds), str)
    return (str if str in kinds else kind), words, bool(kinds), many


def _explain(settings_class: type[Settings], problem: Any) -> str:
    """One pydantic error in one line: the option, its flag, what was found, what is accepted."""
    if not problem["loc"]:
        return str(problem.get("ctx", {}).get("error", problem["msg"]))
    name = str(problem["loc"][0])
    if name not in settings_class.model_fields:
        return (
            f"{name} is none of {settings_class.__name__}: known are {', '.join(settings_class.model_fields)}"
        )
    found = _read_option(name, settings_class.model_fields[name])
    wanted = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if problem["type"] in ("greater_than", "greater_than_equal", "less_than", "less_than_equal") and found:
        wanted = found.range_text
    return f"{name}{f' ({found.flags[0]})' if found else ''} is {problem['input']!r}: expected {wanted}"
