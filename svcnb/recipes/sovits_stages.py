"""What follows the generator, piece by piece: the order of the stages, and which of them the settings ask for.

A stage is a function of a finished piece and of what the generator heard (see sovits_piece). The loudness envelope
follows the last one; every family has it, so it is applied where pieces are cut and joined (conversion).
"""

from __future__ import annotations

import warnings

from svcnb.conversion import ConversionSettings
from svcnb.recipes.sovits_diffusion import shallow_stage
from svcnb.recipes.sovits_piece import Stage, StageVoice
from svcnb.recipes.sovits_vocoder import enhancer_stage


def stages(voice: StageVoice, settings: ConversionSettings) -> list[Stage]:
    """The stages that the settings ask for, in order; networks are loaded once per voice (`voice.loaded`).

    Raises:
        SvcError: a stage that this voice lacks the files for, or that does not fit it.
    """
    if settings.shallow_diffusion and not settings.only_diffusion:
        if settings.enhance:
            warnings.warn("shallow_diffusion (-shd) takes the enhancer's place: enhance (-eh) is left out", stacklevel=4)
        return [shallow_stage(voice, settings)]
    return [enhancer_stage(voice, settings)] if settings.enhance else []
