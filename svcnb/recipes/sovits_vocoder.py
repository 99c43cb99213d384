"""The vocoder of a so-vits voice, and the enhancer as a stage after the generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from svcnb.allocation import freed_memory_kept
from svcnb.conversion import ConversionSettings
from svcnb.enhancer import Enhancer
from svcnb.models.layers import Noise
from svcnb.recipes.sovits_piece import PieceSound, Stage, StageVoice
from svcnb.vocoder import MODEL_NAMES, Vocoder, VocoderError, find_vocoder, load_vocoder


def vocoder_of(voice: StageVoice) -> Vocoder:
    """The vocoder that belongs to a voice, loaded once: the named one, else the first that `find_vocoder` finds.

    Raises:
        VocoderError: there is none; says which files to put where.
    """
    path = find_vocoder(voice.vocoder_path, voice_folder=voice.folder, pretrain_folder=voice.pretrain_folder)
    key = ("vocoder", path)
    if key not in voice.loaded:
        voice.loaded[key] = load_vocoder(path, device=voice.device)
    return voice.loaded[key]


def vocoder_files(voice: StageVoice) -> list[Path]:
    """Files of the voice's vocoder; none where it has none."""
    try:
        path = find_vocoder(voice.vocoder_path, voice_folder=voice.folder, pretrain_folder=voice.pretrain_folder)
    except VocoderError:
        return []
    return [file for file in (path, *(path / name for name in MODEL_NAMES)) if file.is_file()]


def enhancer_stage(voice: StageVoice, settings: ConversionSettings) -> Stage:
    """Sings every piece once more through the vocoder, with the melody that the generator sang.

    Raises:
        VocoderError: as `vocoder_of`.
    """
    vocoder, adaptive_key = vocoder_of(voice), settings.enhancer_adaptive_key
    key = ("enhancer", id(vocoder), adaptive_key)
    if key not in voice.loaded:
        grid = {"sample_rate_hz": voice.sample_rate_hz, "hop_samples": voice.hop_samples}
        voice.loaded[key] = Enhancer(vocoder, adaptive_key=adaptive_key, **grid)
    enhancer: Enhancer = voice.loaded[key]

    def enhance(samples: np.ndarray, heard: PieceSound) -> np.ndarray:
        noise = Noise(torch.Generator().manual_seed(heard.seed))
        with freed_memory_kept():
            return enhancer(samples, heard.f0_hz[0].cpu().numpy(), noise=noise)

    return enhance
