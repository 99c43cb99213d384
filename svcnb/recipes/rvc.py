"""RVC v1 and v2, from recordings to a voice: the verbs of every recipe, and RVC's own steps.

    config = Config.small()
    cut_recordings("data/raw/me", "data/rvc/me", RvcCutSettings(sample_rate_hz=config.data.sampling_rate))
    prepare(config, "data/rvc/me")
    train("data/rvc/me", TrainSettings(max_minutes=30))
    build_voice_index("data/rvc/me")
    load_voice("data/rvc/me").convert_file("song.wav", "data/converted", RvcConversionSettings(transpose_semitones=5))
"""

from __future__ import annotations

from svcnb.recipes.rvc_clips import RvcCutReport, RvcCutSettings, cut_recordings
from svcnb.recipes.rvc_config import Config
from svcnb.recipes.rvc_estimate import TimeEstimate, estimate_time
from svcnb.recipes.rvc_exchange import export_experiment, import_experiment
from svcnb.recipes.rvc_features import PrepareSettings, prepare
from svcnb.recipes.rvc_files import (
    SmallModel, extract_small_model, merge_small_models, read_small_model, set_info, write_small_model,
)  # fmt: skip
from svcnb.recipes.rvc_index import IndexReport, find_index
from svcnb.recipes.rvc_one_click import OneClickReport, OneClickSettings, build_voice_index, train_one_click
from svcnb.recipes.rvc_onnx import check_onnx, export_onnx
from svcnb.recipes.rvc_step import RvcNetworks, StepParts, build, train_step
from svcnb.recipes.rvc_training import EpochChoices, count_steps, train
from svcnb.recipes.rvc_voice import RvcConversionSettings, RvcVoice, is_rvc_voice, load_voice

__all__ = [
    "Config", "EpochChoices", "IndexReport", "OneClickReport", "OneClickSettings", "PrepareSettings", "RvcConversionSettings",
    "RvcCutReport", "RvcCutSettings", "RvcNetworks", "RvcVoice", "SmallModel", "StepParts", "TimeEstimate", "build", "build_voice_index",
    "check_onnx", "count_steps", "cut_recordings", "estimate_time", "export_experiment", "export_onnx", "extract_small_model", "find_index", "import_experiment",
    "is_rvc_voice", "load_voice", "merge_small_models", "prepare", "read_small_model", "set_info", "train",
    "train_one_click", "train_step", "write_small_model",
]  # fmt: skip
