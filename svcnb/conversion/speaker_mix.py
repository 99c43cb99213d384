"""Speaker mixing: a weight for each speaker, constant or changing over the length of a song.

read_mix("ada=0.7, bob=0.3")                 70 % ada and 30 % bob all the time read_mix("ada=1>0,
bob=0>1")                 from ada at the start to bob at the end read_mix("ada=1 > 1@0.4 > 0@0.6 > 0,
...")   ada until 40 % of the song, faded out until 60 % read_mix("mix.json")                         as
in so-vits-svc: {"ada": [[0, 0.5, 1, 0], [0.5, 1, 0, 0]], ...}
"""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from svcnb import SvcError
from svcnb.files.disk import write_text

# start and end of a ramp as ratios of the song's length (0..1), the speaker's weight at its start and at its
# end
Ramp = tuple[float, float, float, float]
Timeline = dict[str, list[Ramp]]
CSV_COLUMNS = ("speaker", "start", "end", "weight_at_start", "weight_at_end")
FILE_SUFFIXES = (".json", ".csv", ".py")
JOIN_TOLERANCE = 1e-6


class MixError(SvcError):
    """A speaker mix is invalid; the message names the speaker and the ramp."""


def read_mix(source: str | Path | Mapping[Any, Any]) -> Timeline:
    """Speaker weights over a song, checked: every curve covers 0 to 1 without a gap.

    Args:
        source: a text as above, a file (.json, .csv with the columns CSV_COLUMNS, or so-vits-svc's spkmix.py,
            from which only the dictionary is read), or a mapping of speakers (names or ids) to one weight or
            to ramps.

    Raises:
        MixError: no such file, an invalid curve, fewer than two speakers, gaps, overlaps, negative weights.
    """
    if isinstance(source, Mapping):
        return _checked(source)
    if not isinstance(source, str | Path):
        raise MixError(
            f"{source!r} is not a speaker mix: expected a text such as ada=0.7,bob=0.3, a file or a mapping"
        )
    if isinstance(source, Path) or source.strip().lower().endswith(FILE_SUFFIXES):
        return _checked(_read_file(Path(source)))
    return _checked(_parse_text(source))


def write_mix(path: Path | str, timeline: Mapping[str, Sequence[Ramp]]) -> Path:
    """Write a timeline as .json, or as .csv for a spreadsheet; `read_mix` reads both back."""
    path = Path(path)
    if path.suffix == ".json":
        return write_text(
            path,
            json.dumps({name: list(ramps) for name, ramps in timeline.items()}, ensure_ascii=False) + "\n",
        )
    if path.suffix != ".csv":
        raise MixError(f"{path.name}: a speaker mix is written as .json or .csv")
    text = io.StringIO()
    rows = [(name, *ramp) for name, ramps in timeline.items() for ramp in ramps]
    csv.writer(text, lineterminator="\n").writerows([CSV_COLUMNS, *rows])
    return write_text(path, text.getvalue())


def weights_at(timeline: Mapping[str, Sequence[Ramp]], positions: np.ndarray) -> np.ndarray:
    """Normalized weight of each speaker at positions of the song.

    Args:
        positions: [N], ratios of the song's length; clipped to 0..1.

    Returns:
        float32 [N, S], speakers in the timeline's order, rows sum to 1; equal weights where all are 0.
    """
    positions = np.clip(positions, 0.0, 1.0)
    columns = []
    for ramps in timeline.values():
        start, end, first, last = np.array(ramps, dtype=np.float64).T
        row = np.clip(np.searchsorted(start, positions, side="right") - 1, 0, len(start) - 1)
        progress = (positions - start[row]) / (end[row] - start[row])
        columns.append(first[row] + (last[row] - first[row]) * np.clip(progress, 0.0, 1.0))
    weights = np.stack(columns, axis=1)  # [N, S]
    total = weights.sum(axis=1, keepdims=True)
    equal = np.full_like(weights, 1 / weights.shape[1])
    return np.divide(weights, total, out=equal, where=total > 0).astype(np.float32)


# ---------------------------------------------------------------------------------------------- checks


def _checked(found: Mapping[Any, Any]) -> Timeline:
    timeline = {str(name): _ramps(str(name), curve) for name, curve in found.items()}
    if len(timeline) < 2:
        raise MixError(
            f"a mix needs two speakers or more, found {', '.join(timeline) or 'none'}: "
            "for one voice choose the speaker instead (-s)"
        )
    return timeline


def _ramps(name: str, curve: Any) -> list[Ramp]:
    if isinstance(curve, int | float) and not isinstance(curve, bool):
        curve = [(0.0, 1.0, curve, curve)]
    try:
        ramps = [tuple(float(value) for value in ramp) for ramp in curve]
    except (TypeError, ValueError):
        raise MixError(
            f"speaker {name!r}: {curve!r} is neither a weight nor a list of [start, end, weight at the start, "
            "weight at the end]"
        ) from None
    if not ramps:
        raise MixError(f"speaker {name!r} has no ramp: give it a weight, 0 where it is not used")
    expected = 0.0
    for number, ramp in enumerate(ramps, 1):
        where = f"speaker {name!r}, ramp {number} {list(ramp)}"
        if len(ramp) != 4 or not all(map(math.isfinite, ramp)):
            raise MixError(
                f"{where}: expected four numbers, [start, end, weight at the start, weight at the end]"
            )
        start, end, first, last = ramp
        if min(first, last) < 0:
            raise MixError(f"{where}: weights cannot be negative, use 0 for a speaker who is not used")
        if abs(start - expected) > JOIN_TOLERANCE:
            raise MixError(
                f"{where} starts at {start:g}, expected {expected:g}: ramps follow each other from 0 to 1 "
                "without gap and overlap"
            )
        if end <= start:
            raise MixError(f"{where} ends at {end:g}, not after its start: the end must be above the start")
        expected = end
    if abs(expected - 1) > JOIN_TOLERANCE:
        raise MixError(f"speaker {name!r} ends at {expected:g}, expected 1, the end of the song")
    return ramps


# ---------------------------------------------------------------------------------------------- reading


def _parse_text(text: str) -> dict[str, list[Ramp]]:
    found: dict[str, list[Ramp]] = {}
    for part in filter(str.strip, re.split(r"[,;\n]", text)):
        name, sign, curve = (text.strip() for text in part.partition("="))
        if not (name and sign and curve):
            raise MixError(
                f"{part.strip()!r} is not a speaker with a weight: write name=0.5, or name=1>0 "
                "for a fade, or name a .json or .csv file"
            )
        if name in found:
            raise MixError(f"speaker {name!r} is named twice in {text!r}")
        found[name] = _parse_curve(name, curve)
    return found


def _parse_curve(name: str, curve: str) -> list[Ramp]:
    """`1 > 0.5@0.3 > 0`: weights, with positions in the song (0..1) where they are not evenly spaced."""
    weights, positions = [], []
    for point in curve.split(">"):
        weight, _, position = point.partition("@")
        try:
            weights.append(float(weight))
            positions.append(float(position) if position.strip() else math.nan)
        except ValueError:
            raise MixError(
                f"speaker {name!r}: {point.strip()!r} is not a weight, expected 0.5 or 0.5@0.3 "
                "(at 30 % of the song)"
            ) from None
    if len(weights) == 1:
        return [(0.0, 1.0, weights[0], weights[0])]
    known = np.array(positions)
    ends = [0, -1]
    known[ends] = np.where(np.isnan(known[ends]), [0.0, 1.0], known[ends])
    given = np.flatnonzero(~np.isnan(known))
    known = np.interp(np.arange(len(known)), given, known[given])
    if known.min() < 0 or known.max() > 1 or (np.diff(known) < 0).any():
        shown = ", ".join(f"{position:g}" for position in known)
        raise MixError(f"speaker {name!r}: positions {shown} must rise from 0 to 1")
    known, weights = [0.0, *known.tolist(), 1.0], [weights[0], *weights, weights[-1]]
    corners = zip(known, known[1:], weights, weights[1:], strict=False)
    return [corner for corner in corners if corner[1] > corner[0]]  # the same position twice is a step


def _read_file(path: Path) -> Mapping[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MixError(
            f"{path} cannot be read as a speaker mix ({error}): name a .json, .csv or .py file"
        ) from None
    read = {".json": _read_json, ".csv": _read_csv, ".py": _read_python}.get(path.suffix.lower())
    if read is None:
        raise MixError(f"{path.name}: a speaker mix is a .json, .csv or .py file")
    try:
        found = read(text)
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise MixError(f"{path.name} contains no speaker mix ({error})") from None
    if not isinstance(found, Mapping):
        raise MixError(f"{path.name} contains no speaker mix: expected one entry per speaker")
    return found


def _read_json(text: str) -> Any:
    return json.loads(text)


def _read_csv(text: str) -> dict[str, list[Ramp]]:
    rows = csv.DictReader(io.StringIO(text))
    missing = set(CSV_COLUMNS) - set(rows.fieldnames or ())
    if missing:
        raise ValueError(f"its header lacks {', '.join(sorted(missing))}; expected {','.join(CSV_COLUMNS)}")
    found: dict[str, list[Ramp]] = {}
    for row in rows:
        found.setdefault(row["speaker"], []).append(tuple(float(row[column]) for column in CSV_COLUMNS[1:]))
    return found


def _read_python(text: str) -> Any:
    """The last dictionary that the file assigns, as a literal; the code is not executed."""
    assigned = [node.value for node in ast.parse(text).body if isinstance(node, ast.Assign | ast.AnnAssign)]
    dictionaries = [value for value in assigned if isinstance(value, ast.Dict)]
    if not dictionaries:
        raise ValueError("it assigns no dictionary")
    return ast.literal_eval(dictionaries[-1])
