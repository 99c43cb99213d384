"""Voices from public collections: folders and zip files of any layout load, or raise with the choices."""

from __future__ import annotations

import json
import os
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb import SvcError
from svcnb.audio.audio import Audio
from svcnb.cli.main import main
from svcnb.conversion.settings import ConversionSettings
from svcnb.files import archives
from svcnb.files.archives import ArchiveError
from svcnb.files.checkpoint import read_checkpoint
from svcnb.models.sovits.checkpoint import save_sovits_checkpoint, slim_sovits
from svcnb.models.sovits.files import find_voice, speakers_in
from svcnb.models.sovits.voice import load_voice
from tests.toys.small_voice import save_small_voice


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice as written by training: G_0.pth and config.json."""
    return save_small_voice(tmp_path_factory.mktemp("voice"))


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # data/unpacked is made below


def lay_out(folder: Path, plain: Path, *, weights: str, config: str, extra: tuple[str, ...] = ()) -> Path:
    """The voice under other names, with additional empty files."""
    for name, content in {weights: plain / "G_0.pth", config: plain / "config.json"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(content, folder / name)
    for name in extra:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def zip_folder(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path


LAYOUTS = {
    "names of the family": ("G_10400.pth", "config.json", ()),
    "odd names": ("azusa v2 (final).pth", "azusa v2 (final).json", ("license.txt",)),
    "another name for the config": ("G_800_release.pth", "azusa_config.json", ("middle_pitch.txt",)),
    "nested": ("Azusa 梓/logs/44k/G_800.pth", "Azusa 梓/configs/config.json", ("Azusa 梓/readme.md",)),
    "with the discriminator and the base": (
        "v/G_800.pth",
        "v/config.json",
        ("v/D_800.pth", "v/D_0.pth", "v/G_0.pth"),
    ),
    "with a vocoder's config": ("v/voice.pth", "v/config.json", ("pretrain/nsf_hifigan/model", "rmvpe.pth")),
}


@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_call_loads_a_voice_from_a_collection(
    tmp_path: Path, plain: Path, layout: str, as_zip: bool
) -> None:
    weights, config, extra = LAYOUTS[layout]
    source = lay_out(tmp_path / "azusa", plain, weights=weights, config=config, extra=extra)
    (source / "vocoder.json").write_text('{"num_mels": 128}')
    if as_zip:
        source = zip_folder(source, tmp_path / "azusa.zip")
    voice = load_voice(source)
    assert list(voice.speakers) == ["ada"] and voice.name in ("azusa", "44k", "v")
    result = voice.convert(tone(), ConversionSettings(f0_method="dio"))
    assert result.duration_s == 1.0 and np.isfinite(result.samples).all()
    assert {path.name for path in tmp_path.iterdir()} <= {"azusa", "azusa.zip", "data"}, (
        "written outside data"
    )


def tone(seconds: float = 1.0) -> Audio:
    return Audio(
        0.2 * np.sin(2 * np.pi * 220 * np.arange(int(22050 * seconds)) / 22050).astype(np.float32), 22050
    )


@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
def test_centers_index_and_diffusion_are_found(tmp_path: Path, plain: Path, as_zip: bool) -> None:
    extra = (
        "x/centres/kmeans.pt",
        "x/centres/feature_and_index.pkl",
        "x/diff/model_2000.pt",
        "x/diff/model_10000.pt",
    )
    source = lay_out(
        tmp_path / "v", plain, weights="x/a.pth", config="x/a.json", extra=(*extra, "x/diff/diffusion.yaml")
    )
    if as_zip:
        source = zip_folder(source, tmp_path / "v.zip")
    voice = load_voice(source)
    assert sorted(path.name for path in voice.retrieval.files()) == ["feature_and_index.pkl", "kmeans.pt"]
    folder = voice.folder / "diffusion"
    model = folder / "model_10000.pt" if as_zip else voice.refiners.diffusion_files.model
    config = folder / "config.yaml" if as_zip else voice.refiners.diffusion_files.config
    assert model.is_file() and model.name == "model_10000.pt" and config.is_file()


def test_a_zip_is_unpacked_once_below_data_and_again_when_it_changed(tmp_path: Path, plain: Path) -> None:
    path = zip_folder(plain, tmp_path / "v.zip")
    first = find_voice(path)
    assert first.weights.is_relative_to("data/unpacked") and first.name == "v"
    written = first.weights.stat().st_mtime_ns
    assert find_voice(path).weights == first.weights and first.weights.stat().st_mtime_ns == written
    os.utime(path, (1, 1))
    assert find_voice(path).weights != first.weights


def test_only_the_voices_own_files_are_unpacked(tmp_path: Path, plain: Path) -> None:
    extra = ("v/D_800.pth", "v/G_400.pth", "v/song.wav", "v/train.log")
    folder = lay_out(tmp_path / "x", plain, weights="v/G_800.pth", config="v/config.json", extra=extra)
    found = find_voice(zip_folder(folder, tmp_path / "x.zip"))
    assert sorted(path.name for path in found.weights.parent.iterdir()) == ["G_800.pth", "config.json"]


def test_several_voices_are_listed(tmp_path: Path, plain: Path) -> None:
    folder = lay_out(
        tmp_path / "x", plain, weights="a/G_800.pth", config="a/config.json", extra=("b/G_900.pth",)
    )
    for source in (folder, zip_folder(folder, tmp_path / "x.zip")):
        with pytest.raises(SvcError, match=r"several voices in .*: name one of a/G_800.pth, b/G_900.pth"):
            load_voice(source)
    odd = lay_out(tmp_path / "y", plain, weights="a.pth", config="config.json", extra=("b.pth",))
    with pytest.raises(SvcError, match=r"name one of a.pth, b.pth"):
        load_voice(odd)
    assert load_voice(odd / "a.pth").speakers == {"ada": 0}


def test_several_configs_are_listed_and_one_can_be_named(tmp_path: Path, plain: Path) -> None:
    folder = lay_out(tmp_path / "x", plain, weights="v/G_800.pth", config="a.json")
    shutil.copy(folder / "a.json", folder / "b.json")
    with pytest.raises(SvcError, match=r"several configs for v/G_800.pth .* -c, of a.json, b.json"):
        load_voice(folder)
    assert load_voice(folder, config=folder / "b.json").speakers == {"ada": 0}


def test_a_folder_without_a_voice_raises_with_what_was_expected(tmp_path: Path, plain: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(SvcError, match=r"no voice in .*expected a G_\*\.pth, or one other \*\.pth"):
        load_voice(tmp_path / "x")
    shutil.copy(plain / "G_0.pth", tmp_path / "x" / "voice.pth")
    with pytest.raises(SvcError, match=r"no config.json for voice.pth"):
        load_voice(tmp_path / "x")


# ---------------------------------------------------------------------------------------------- configs, releases


@pytest.mark.parametrize(
    "spk", [{"ada": 0}, ["ada"], "ada", {"0": "ada"}], ids=["dict", "list", "one name", "by id"]
)
def test_speakers_are_read_in_every_form_that_collections_have(
    tmp_path: Path, plain: Path, spk: object
) -> None:
    folder = lay_out(tmp_path / "v", plain, weights="G_1.pth", config="config.json")
    config = json.loads((folder / "config.json").read_text()) | {"spk": spk}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8-sig")  # with BOM
    assert load_voice(folder).speakers == {"ada": 0}
    assert speakers_in(folder) == ["ada"] == speakers_in(zip_folder(folder, tmp_path / "v.zip"))


@pytest.mark.parametrize("half", [False, True], ids=["float32", "half"])
def test_release_files_load_without_their_posterior(tmp_path: Path, plain: Path, half: bool) -> None:
    folder = lay_out(tmp_path / "v", plain, weights="G_0.pth", config="config.json")
    state = slim_sovits(read_checkpoint(plain / "G_0.pth")["model"], half=half)
    assert not any("enc_q" in name for name in state)
    (folder / "G_0.pth").unlink()
    save_sovits_checkpoint(folder / "G_800_release.pth", model_state=state, iteration=0, learning_rate=1e-4)
    voice = load_voice(zip_folder(folder, tmp_path / "v.zip"))
    assert not voice.has_posterior
    assert next(voice.generator.parameters()).dtype == torch.float32
    assert np.isfinite(voice.convert(tone(), ConversionSettings(f0_method="dio")).samples).all()


def test_a_config_of_40_names_no_encoder_and_loads(tmp_path: Path, plain: Path) -> None:
    folder = lay_out(tmp_path / "v", plain, weights="a.pth", config="a.json")
    config = json.loads((folder / "a.json").read_text())
    for section, key in (
        ("model", "speech_encoder"),
        ("model", "vol_embedding"),
        ("data", "unit_interpolate_mode"),
    ):
        del config[section][key]
    (folder / "a.json").write_text(json.dumps(config))
    voice = load_voice(folder)
    assert voice.encoder.name == "svcnb-units" and voice.config.data.unit_interpolate_mode == "left"


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["../G_1.pth", "/G_1.pth", "C:/G_1.pth", "a\\..\\..\\G_1.pth"])
def test_a_zip_that_would_write_elsewhere_is_refused_whole(tmp_path: Path, plain: Path, name: str) -> None:
    path = zip_folder(plain, tmp_path / "v.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"evil")
    with pytest.raises(ArchiveError, match="outside its folder"):
        load_voice(path)
    assert not (tmp_path / "data").exists() and not (tmp_path / "G_1.pth").exists()


def test_a_zip_with_a_link_is_refused(tmp_path: Path, plain: Path) -> None:
    path = zip_folder(plain, tmp_path / "v.zip")
    link = zipfile.ZipInfo("config2.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "../secret")
    with pytest.raises(ArchiveError, match="config2.json is a link"):
        load_voice(path)


def test_a_zip_that_unpacks_to_too_much_is_refused_with_both_sizes(
    tmp_path: Path, plain: Path, monkeypatch
) -> None:
    path = zip_folder(plain, tmp_path / "v.zip")
    monkeypatch.setattr(archives, "MAX_BYTES", 1000)
    with pytest.raises(
        ArchiveError, match=r"would be \d+\.\d\d GB unpacked, at most 0\.00 GB are: unpack it by hand"
    ):
        load_voice(path)
    assert not (tmp_path / "data").exists()


def test_a_zip_with_a_wrong_size_entry_is_not_unpacked_beyond_it(tmp_path: Path, plain: Path) -> None:
    folder = lay_out(tmp_path / "x", plain, weights="G_1.pth", config="config.json")
    path = zip_folder(folder, tmp_path / "v.zip")
    size = (folder / "G_1.pth").stat().st_size
    path.write_bytes(path.read_bytes().replace(size.to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(ArchiveError, match="G_1.pth cannot be read"):
        load_voice(path)


def test_an_incomplete_zip_and_a_text_file_named_zip_raise(tmp_path: Path, plain: Path) -> None:
    path = zip_folder(plain, tmp_path / "v.zip")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ArchiveError, match="no complete zip file"):
        load_voice(path)
    path.write_text("<html>")
    with pytest.raises(ArchiveError, match="no complete zip file"):
        load_voice(path)


def test_zips_of_windows_and_macos_load(tmp_path: Path, plain: Path) -> None:
    path = tmp_path / "v.zip"
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("voice\\G_5.pth")
        entry.filename = "voice\\G_5.pth"
        archive.writestr(entry, (plain / "G_0.pth").read_bytes())
        archive.write(plain / "config.json", "voice/config.json")
        archive.writestr("__MACOSX/voice/._G_5.pth", b"mac")
        archive.writestr("voice/._config.json", b"mac")
    assert load_voice(path).step == 5


def test_convert_takes_a_zip(
    tmp_path: Path, plain: Path, recording: Path, capsys: pytest.CaptureFixture
) -> None:
    path = zip_folder(plain, tmp_path / "a voice.zip")
    arguments = ["convert", "-m", str(path), str(recording), "-f0p", "dio", "-o", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert len(list((tmp_path / "out").iterdir())) == 1
    assert "data/unpacked/a voice-" in capsys.readouterr().err
