"""File names of results: as in so-vits-svc, short enough for every file system, distinct within a batch."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from svcnb.conversion.settings import ConversionSettings

LONGEST_NAME_BYTES = 230  # of 255: room for a number, the suffix and the suffix of an f0 table


def output_name(
    clean_name: str,
    settings: ConversionSettings,
    *,
    speaker: str | None = None,
    f0_method: str | None = None,
    mode: str = "sovits",
    version: str = "4.1",
) -> str:
    """File name of a result, as in so-vits-svc.

    Args:
        clean_name: name of the source; its suffix stays part of the name ("song.wav").
        settings: transposition, cluster ratio, format.
        speaker: name of the target voice (default: settings.speaker); several mixed voices are "spk_mix".
        f0_method: the method actually used if the settings have "auto".
        mode: "sovits", "sovdiff" or "diff" (4.1).
        version: "4.1" gives {name}_{key}_{speaker}{_ratio}_{mode}_{f0 method}.{format}, "4.0" ends after the ratio.
    """
    speaker = str(
        speaker if speaker is not None else settings.speaker if settings.speaker is not None else "voice"
    )
    key = "auto" if settings.auto_predict_f0 else f"{settings.transpose_semitones:g}key"
    ratio = f"_{settings.cluster_ratio}" if settings.cluster_ratio else ""
    parts = [clean_name, key, speaker + ratio]
    if version != "4.0":
        parts += [mode, f0_method or settings.f0_method]
    # a speaker may be called "AC/DC"; a name must not become a folder
    return _short("_".join(parts).replace("/", "-").replace("\\", "-")) + f".{settings.audio_format}"


def _short(name: str) -> str:
    """The name, or as much of it as file systems allow (255 bytes) with a checksum of the whole name."""
    encoded = os.fsencode(name)
    if len(encoded) <= LONGEST_NAME_BYTES:
        return name
    checksum = f"{zlib.crc32(encoded):08x}"
    return encoded[: LONGEST_NAME_BYTES - 9].decode("utf-8", "ignore") + f"-{checksum}"


def distinct_names(names: Sequence[str]) -> list[str]:
    """Names of one batch, numbered where two sources would overwrite each other: x.flac, x_2.flac.

    Names that differ only in case count as equal, as they do on Windows, macOS and Google Drive.
    """
    given = {name.casefold() for name in names}
    taken: set[str] = set()
    result = []
    for name in names:
        number, candidate = 1, name
        while candidate.casefold() in taken or (number > 1 and candidate.casefold() in given):
            number += 1
            candidate = f"{Path(name).stem}_{number}{Path(name).suffix}"
        taken.add(candidate.casefold())
        result.append(candidate)
    return result
