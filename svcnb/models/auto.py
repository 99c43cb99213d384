"""Load a voice of any model family; the family is recognized from the folder or file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from svcnb import SvcError
from svcnb.conversion.settings import ConversionSettings
from svcnb.models.settings import RvcConversionSettings

if TYPE_CHECKING:
    from svcnb.conversion.voice import LoadedVoice

ONLY_SOVITS = {"vocoder": "--vocoder", "diffusion": "-dm"}


def load_any_voice(
    source: Path | str, *, cluster_model: Path | str | None = None, **parts: Any
) -> LoadedVoice:
    """Load a so-vits or an RVC voice from its folder, a file or (so-vits) a zip file.

    Args:
        cluster_model: cluster centers or an index to use instead of those beside the voice.
        parts: as in the families' own load_voice; None uses the files beside the voice.

    Raises:
        SvcError: as the families' own load_voice; parts that the family does not have.
    """
    from svcnb.models import rvc, sovits
    from svcnb.models.rvc.voice import is_rvc_voice

    if not is_rvc_voice(source):
        return sovits.load_voice(source, cluster_model=cluster_model, **parts)
    wrong = [flag for name, flag in ONLY_SOVITS.items() if parts.pop(name, None)]
    if wrong:
        raise SvcError(f"{source} is an RVC voice, which does not use {' and '.join(wrong)}: leave it out")
    parts.pop("config", None)  # RVC's is beside the weights, or inside a small model
    return rvc.load_voice(source, index=cluster_model, **parts)


def conversion_settings_of(source: Path | str) -> type[ConversionSettings]:
    """The settings class of a voice's family, by what its folder or file holds."""
    from svcnb.models.rvc.voice import is_rvc_voice

    return RvcConversionSettings if is_rvc_voice(source) else ConversionSettings
