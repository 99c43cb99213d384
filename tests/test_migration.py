"""The tables in README for users of so-vits-svc: every row names something that works as described."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svcnb.cli import main as cli
from svcnb.conversion.settings import ConversionSettings
from svcnb.files.options import options_of
from tests import readme_tables
from tests.places import DEMO_VOICES, PROJECT
from tests.readme_tables import CODE, FIELD, commands_in, parsed, read_section, sub_parsers
from tests.sources import NOTEBOOKS, parameters

SECTION = read_section("## Coming from so-vits-svc")
SCRIPTS, CONVERSION, COLAB, WEB, FILES = (
    "script", "`inference_main.py`", "Colab form", "web page", "their file",
)  # fmt: skip

# so-vits-svc 4.1's inference_main.py; -fmp is 4.0's.
THEIR_FLAGS = (
    "-m --model_path -c --config_path -cl --clip -n --clean_names -t --trans -s --spk_list -a --auto_predict_f0 "
    "-cm --cluster_model_path -cr --cluster_infer_ratio -lg --linear_gradient -f0p --f0_predictor -eh --enhance "
    "-shd --shallow_diffusion -usm --use_spk_mix -lea --loudness_envelope_adjustment -fr --feature_retrieval "
    "-dm --diffusion_model_path -dc --diffusion_config_path -ks --k_step -se --second_encoding -od --only_diffusion "
    "-sd --slice_db -d --device -ns --noice_scale -p --pad_seconds -wf --wav_format -lgr --linear_gradient_retain "
    "-eak --enhancer_adaptive_key -ft --f0_filter_threshold -fmp --f0_mean_pooling"
).split()
THEIR_SCRIPTS = (
    "resample.py preprocess_flist_config.py preprocess_hubert_f0.py train.py train_diff.py cluster/train_cluster.py "
    "train_index.py inference_main.py compress_model.py onnx_export.py"
).split()
THEIR_FIELDS = (
    "sovits_data_dir sync_raw_and_results sync_configs_and_logs download_pretrained_model D_0_URL G_0_URL diff_model_URL "
    "zip_filename speech_encoder use_vol_aug f0_predictor use_diff tensorboard_on wav_filename model_filename speaker trans "
    "config_filename kmeans_filenname slice_db wav_format enhance download_after_inference"
).split()


def table(heading: str) -> list[list[str]]:
    return readme_tables.table(SECTION, heading)


def all_rows() -> list[list[str]]:
    return [row for heading in (SCRIPTS, CONVERSION, COLAB, WEB, FILES) for row in table(heading)]


def sub_parser(name: str) -> argparse.ArgumentParser:
    return sub_parsers()[name]


@pytest.mark.parametrize(
    "command", sorted({c for row in all_rows() for cell in row[1:] for c in commands_in(cell)})
)
def test_every_command_parses(command: str) -> None:
    assert parsed(command).run


def test_every_field_is_on_the_form_it_names() -> None:
    forms = {path.stem: parameters(path) for path in NOTEBOOKS}
    named = [found for row in all_rows() for cell in row[1:] for found in FIELD.findall(cell)]
    assert len(named) > 10
    for notebook, field in named:
        assert field in forms[notebook], f"{notebook} has no field {field}"
    for row in table(CONVERSION):
        for field in CODE.findall(row[1]):
            assert field in forms["05_convert"], f"05_convert has no field {field}"


def test_every_flag_of_ours_that_a_note_names_exists() -> None:
    ours = {flag for parser in sub_parsers().values() for flag in parser._option_string_actions}
    for row in all_rows():
        for code in CODE.findall(row[-1]):
            if code.startswith("-"):
                assert code.split()[0] in ours | set(THEIR_FLAGS) | {"--skip_loudnorm"}, code


def test_the_table_of_conversion_flags_is_whole_and_they_are_ours() -> None:
    flags = [flag for row in table(CONVERSION) for flag in CODE.findall(row[0])]
    pairs = [pair.split() for pair in flags]
    assert sorted(flag for pair in pairs for flag in pair) == sorted(THEIR_FLAGS)
    actions = sub_parser("convert")._option_string_actions
    for short, long in pairs:
        assert actions[short] is actions[long], f"{short} and {long} are different options"


def test_defaults_in_the_table_are_the_programs_and_the_forms() -> None:
    options, form = sub_parser("convert").options, parameters(PROJECT / "notebooks" / "05_convert.ipynb")
    n_compared = 0
    for flags, field, default, _ in table(CONVERSION):
        if not flags or not re.fullmatch(r"-?[\d.]+|on|off|flac|auto", default):
            continue
        wanted = {"on": True, "off": False}.get(default, default)
        found = options[CODE.findall(flags)[0].split()[0]].default
        values = [found, *(form[name] for name in CODE.findall(field))]
        for value in values:
            assert str(value) == str(wanted) or float(value) == float(wanted), (
                f"{flags}: {value}, the table says {default}"
            )
        n_compared += 1
    assert n_compared >= 20


def test_conversion_flags_are_the_settings_own() -> None:
    flags = {flag for option in options_of(ConversionSettings).values() for flag in option.original}
    outside = set(
        "-m --model_path -c --config_path -n --clean_names -cm --cluster_model_path -dm --diffusion_model_path "
        "-dc --diffusion_config_path -d --device".split()
    )
    assert set(THEIR_FLAGS) <= flags | outside


def test_every_script_and_every_form_field_of_theirs_has_a_row() -> None:
    scripts = " ".join(row[0] for row in table(SCRIPTS))
    assert not [name for name in THEIR_SCRIPTS if name not in scripts]
    fields = {code for row in table(COLAB) for code in CODE.findall(row[0])}
    assert not set(THEIR_FIELDS) - fields


def test_the_web_page_has_no_field_that_conversion_lacks() -> None:
    """The fields of webUI.py, with our settings for them."""
    served = (
        "auto_predict_f0 f0_method transpose_semitones cluster_ratio slice_db audio_format noise_scale k_step pad_seconds "
        "clip_seconds crossfade_seconds crossfade_keep_ratio enhancer_adaptive_key f0_threshold loudness_envelope_ratio "
        "second_encoding enhance only_diffusion"
    ).split()
    assert set(served) <= set(ConversionSettings.model_fields)


# --------------------------------------------------------------------------------- the scripts' rows, one after another


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in so-vits-svc's layout, in which every command of the scripts' table was run, in order."""
    from tests.toys.small_voice import tiny_config
    from tests.toys.tiny_diffusion import write_vocoder

    folder = tmp_path_factory.mktemp("so vits")
    recordings = sorted((DEMO_VOICES / "raw").rglob("ada*.flac"))[:3]
    for path in recordings:
        samples, rate_hz = soundfile.read(path)
        for target in (folder / "dataset_raw" / "ada" / f"{path.stem}.wav", folder / "raw" / "song.wav"):
            target.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(target, samples[: 4 * rate_hz], rate_hz)
    tiny_config().save(folder / "configs" / "config.json")
    write_vocoder(folder / "data" / "models" / "44k" / "vocoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for row in table(SCRIPTS):
            for command in commands_in(row[1]):
                run_small(command)
    return folder


# Steps that would take hours or need a download, at a size that takes a moment.
SMALLER = {"vec768l12": "svcnb-units", "4": "1"}
ALSO = {
    "features": ["--config", "configs/config.json"],
    "train": ["--max_steps", "2", "--save_every_steps", "2", "--resume"],
    "diffusion": ["--max_steps", "1", "--config", "small"],
    "cluster": ["--n_centers", "4"],
}  # fmt: skip


def run_small(command: str) -> None:
    words = [SMALLER.get(word, word) for word in shlex.split(command)[1:]]
    if words[0] == "features":
        shutil.rmtree("data/features", ignore_errors=True)  # each row has other settings
    newest = max(
        Path("data/models/44k").glob("G_*.pth"),
        default=Path("G_800.pth"),
        key=lambda path: path.stat().st_mtime_ns,
    )
    words = [str(newest) if word.endswith("G_800.pth") else word for word in words]
    assert cli.main([*words, *ALSO.get(words[0], [])]) == 0, command


def test_resample_gives_clips_at_the_peak_as_theirs(moved: Path) -> None:
    clips = sorted((moved / "data" / "clips" / "ada").glob("*.flac"))
    assert clips
    samples, rate_hz = soundfile.read(clips[0])
    assert rate_hz == 44100 and samples.ndim == 1 and np.abs(samples).max() > 0.85


def test_training_gives_their_files(moved: Path) -> None:
    from svcnb.models.sovits.checkpoint import read_sovits_checkpoint

    voice = moved / "data" / "models" / "44k"
    assert (voice / "config.json").is_file() and list(voice.glob("tensorboard/*"))
    assert set(read_sovits_checkpoint(voice / "G_2.pth").model)
    assert list(voice.glob("kmeans_*.pt")) and (voice / "feature_and_index.pkl").is_file()
    assert list((voice / "diffusion").glob("model_*.pt")) and (voice / "diffusion" / "config.yaml").is_file()


def test_a_name_in_raw_is_converted_to_the_same_length(moved: Path) -> None:
    (result,) = (moved / "data" / "converted").glob("song.wav_0key_ada_sovits_*.flac")
    before, after = soundfile.info(moved / "raw" / "song.wav"), soundfile.info(result)
    assert after.duration == pytest.approx(before.duration, abs=1e-3)
