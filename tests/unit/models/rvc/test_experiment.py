"""logs/EXPERIMENT in RVC's layout: contents of each file, and reports of clips with missing files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from svcnb.audio.audio import Audio
from svcnb.models.rvc.experiment import (
    COARSE_FOLDER,
    F0_FOLDER,
    GT_FOLDER,
    WAV16_FOLDER,
    ClipContent,
    TreeClip,
    TreeError,
    export_tree,
    import_tree,
    read_content,
    write_features,
    write_filelist,
    write_mute,
)
from svcnb.models.rvc.network import coarse_f0

RATE_HZ = 40000


def content(name: str, *, width: int = 256, with_f0: bool = True) -> ClipContent:
    rng = np.random.default_rng(len(name))
    sound = Audio(0.1 * rng.standard_normal(RATE_HZ), RATE_HZ)
    f0_hz = np.where(np.arange(101) < 50, 0.0, 220.0) if with_f0 else None
    features = rng.standard_normal((49, width)).astype(np.float32)
    return ClipContent(name, sound, features, f0_hz, samples_16k=np.zeros(16000, np.float32))


def extract(samples_16k: np.ndarray) -> np.ndarray:
    """A stub for HuBERT: its frame count, and features of silence that are not zero."""
    return np.ones(((len(samples_16k) - 400) // 320 + 1, 768), np.float32)


# ---------------------------------------------------------------- f0


def test_coarse_bins_are_those_of_the_fact_sheet() -> None:
    f0_hz = np.array([0, 30, 50, 51, 55, 100, 110, 220, 440, 880, 1100, 1200, 5000])
    assert coarse_f0(f0_hz).tolist() == [1, 1, 1, 1, 3, 20, 23, 60, 122, 217, 255, 255, 255]
    assert coarse_f0(f0_hz).dtype == np.int64


# ---------------------------------------------------------------- files


def test_every_file_has_the_shape_and_type_of_the_original(tmp_path: Path) -> None:
    (clip,) = export_tree(tmp_path, [content("0_0")])
    assert clip.wav_path == tmp_path / GT_FOLDER / "0_0.wav"
    assert clip.features_path == tmp_path / "3_feature256" / "0_0.npy"
    assert clip.coarse_path == tmp_path / COARSE_FOLDER / "0_0.wav.npy"
    assert clip.f0_path == tmp_path / F0_FOLDER / "0_0.wav.npy"
    for path, rate_hz in ((clip.wav_path, RATE_HZ), (tmp_path / WAV16_FOLDER / "0_0.wav", 16000)):
        info = soundfile.info(path)
        assert (info.samplerate, info.subtype, info.frames) == (rate_hz, "FLOAT", rate_hz)
    features, coarse, f0_hz = (np.load(path) for path in (clip.features_path, clip.coarse_path, clip.f0_path))
    assert (features.dtype, features.shape) == (np.float32, (49, 256))
    assert (coarse.dtype, coarse.shape, coarse.min(), coarse.max()) == (np.int64, (101,), 1, 60)
    assert (f0_hz.dtype, f0_hz.shape, f0_hz.max()) == (np.float64, (101,), 220.0)


def test_features_of_768_go_to_their_own_folder_and_nan_nowhere(tmp_path: Path) -> None:
    assert write_features(tmp_path, "0_0", np.zeros((9, 768))).parent.name == "3_feature768"
    with pytest.raises(TreeError, match="256"):
        write_features(tmp_path, "0_0", np.zeros((9, 100)))
    with pytest.raises(TreeError, match="NaN"):
        write_features(tmp_path, "0_1", np.full((9, 256), np.nan))


@pytest.mark.parametrize("rate_hz", [32000, 40000, 48000])
def test_mute_files(tmp_path: Path, rate_hz: int) -> None:
    mute = write_mute(tmp_path / "mute", rate_hz, extract)
    assert mute.wav_path.name == f"mute{rate_hz // 1000}k.wav"
    samples, found_hz = soundfile.read(mute.wav_path, dtype="int16")
    assert (found_hz, samples.shape, samples.any()) == (rate_hz, (3 * rate_hz,), False)
    assert soundfile.info(mute.wav_path).subtype == "PCM_16"
    coarse, f0_hz, features = (np.load(p) for p in (mute.coarse_path, mute.f0_path, mute.features_path))
    assert (coarse.dtype, coarse.shape, set(coarse)) == (np.int32, (301,), {1})
    assert (f0_hz.dtype, f0_hz.shape, f0_hz.any()) == (np.float64, (301,), False)
    assert (features.dtype, features.shape, features.all()) == (np.float32, (149, 768), True)


# ---------------------------------------------------------------- filelist


@pytest.mark.parametrize("with_f0", [True, False])
def test_filelist_has_every_clip_and_mute_twice(tmp_path: Path, with_f0: bool) -> None:
    tree = tmp_path / "logs" / "exp"
    clips = export_tree(tree, [content(f"0_{n}", width=768, with_f0=with_f0) for n in range(4)])
    mute = write_mute(tmp_path / "logs" / "mute", RATE_HZ, extract, with_f0=with_f0)
    path = write_filelist(tree, clips, mute=mute, speaker_id=2)
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    assert len(lines) == 6 and lines[-1]  # no line break at the end
    assert all(len(line.split("|")) == (5 if with_f0 else 3) and line.endswith("|2") for line in lines)
    assert sum("mute40k.wav" in line for line in lines) == 2
    assert all(
        Path(field).is_absolute() and Path(field).is_file()
        for line in lines
        for field in line.split("|")[:-1]
    )
    assert write_filelist(tree, clips, mute=mute, speaker_id=2).read_text(encoding="utf-8") == text
    names = sorted(Path(line.split("|")[0]).stem for line in lines)
    assert names == ["0_0", "0_1", "0_2", "0_3", "mute40k", "mute40k"]


def test_filelist_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(TreeError, match="rename"):
        write_filelist(tmp_path, [TreeClip("a", tmp_path / "a|b.wav", tmp_path / "a.npy")])


# ---------------------------------------------------------------- import


def original_tree(tree: Path) -> Path:
    """A tree as RVC writes it: with missing numbers, cached spectra and int32 bins."""
    export_tree(tree, [content(f"0_{n}") for n in (1, 2, 10, 11)])
    for path in (tree / COARSE_FOLDER).iterdir():
        np.save(path, np.load(path).astype(np.int32))
    (tree / GT_FOLDER / "0_1.spec.pt").touch()
    return tree


def test_import_of_a_whole_tree(tmp_path: Path) -> None:
    found = import_tree(original_tree(tmp_path))
    assert [clip.name for clip in found.clips] == ["0_1", "0_2", "0_10", "0_11"]
    assert found.dropped == [] and found.with_f0 and found.feature_width == 256
    read = read_content(found.clips[0])
    assert (
        read.audio.sample_rate_hz == RATE_HZ
        and read.features.shape == (49, 256)
        and read.f0_hz.shape == (101,)
    )


@pytest.mark.parametrize(
    "missing",
    [
        f"{GT_FOLDER}/0_2.wav",
        "3_feature256/0_2.npy",
        f"{COARSE_FOLDER}/0_2.wav.npy",
        f"{F0_FOLDER}/0_2.wav.npy",
    ],
)
def test_a_missing_file_is_reported_by_name(tmp_path: Path, missing: str) -> None:
    (original_tree(tmp_path) / missing).unlink()
    found = import_tree(tmp_path)
    assert [clip.name for clip in found.clips] == ["0_1", "0_10", "0_11"]
    assert found.dropped == [("0_2", f"no file in {missing.split('/')[0]}")]
    assert "0_2" in str(found)


def test_damaged_files_are_reported_by_name(tmp_path: Path) -> None:
    tree = original_tree(tmp_path)
    np.save(tree / "3_feature256" / "0_1.npy", np.full((49, 256), np.nan, np.float32))
    (tree / F0_FOLDER / "0_2.wav.npy").write_bytes(b"")
    np.save(tree / COARSE_FOLDER / "0_10.wav.npy", np.ones(7, np.int32))
    (tree / GT_FOLDER / "0_11.wav").write_bytes(b"RIFF")
    export_tree(tree, [content("0_12")])
    found = import_tree(tree)
    assert [clip.name for clip in found.clips] == ["0_12"]
    reasons = dict(found.dropped)
    assert "NaN" in reasons["0_1"] and "0_2.wav.npy" in reasons["0_2"]
    assert "7 frames" in reasons["0_10"] and "0_11.wav" in reasons["0_11"]


def test_clips_of_another_rate_are_reported(tmp_path: Path) -> None:
    tree = original_tree(tmp_path)
    soundfile.write(tree / GT_FOLDER / "0_2.wav", np.zeros(48000, np.float32), 48000, subtype="FLOAT")
    found = import_tree(tree)
    assert found.sample_rate_hz == RATE_HZ and [clip.name for clip in found.clips] == ["0_1", "0_10", "0_11"]
    assert found.dropped[0][0] == "0_2" and "48000" in found.dropped[0][1]


def test_swapped_f0_folders_are_noticed(tmp_path: Path) -> None:
    tree = original_tree(tmp_path)
    (tree / COARSE_FOLDER).rename(tree / "was")
    (tree / F0_FOLDER).rename(tree / COARSE_FOLDER)
    (tree / "was").rename(tree / F0_FOLDER)
    found = import_tree(tree)
    assert not found.clips and all("2a_f0" in reason for _, reason in found.dropped)


def test_trees_without_features_or_with_two_widths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TreeError, match="no features"):
        import_tree(tmp_path)
    export_tree(tmp_path, [content("0_0"), content("0_0", width=768)])
    with pytest.raises(TreeError, match="choose feature_width"):
        import_tree(tmp_path)
    assert import_tree(tmp_path, feature_width=768).feature_width == 768


def test_export_of_an_import_is_the_same(tmp_path: Path) -> None:
    found = import_tree(original_tree(tmp_path / "a"), with_f0=False)
    assert all(clip.f0_path is None for clip in found.clips)
    export_tree(tmp_path / "b", [read_content(clip) for clip in found.clips])
    again = import_tree(tmp_path / "b")
    assert not again.with_f0
    for one, other in zip(found.clips, again.clips, strict=True):
        assert one.features_path.read_bytes() == other.features_path.read_bytes()
        assert np.array_equal(soundfile.read(one.wav_path)[0], soundfile.read(other.wav_path)[0])


def test_names_with_dots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TreeError, match="first dot"):
        export_tree(tmp_path, [content("take.1")])
