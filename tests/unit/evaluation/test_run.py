"""An evaluation with a voice made of a few lines: what is measured, reused, skipped, noted and written."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from svcnb import MissingExtra, SvcError
from svcnb.audio.audio import Audio, AudioError, read_audio, write_audio
from svcnb.conversion.settings import ConversionSettings
from svcnb.evaluation import run as evaluation_run
from svcnb.evaluation.results import VoiceEvaluation, relative_similarity
from svcnb.evaluation.run import choose_transposition, evaluate_voice, held_out_clips
from svcnb.evaluation.settings import EvaluationSettings
from svcnb.evaluation.words import WordErrors, find_transcript
from svcnb.features.pitch.estimator import PitchEstimator
from svcnb.features.pitch.track import F0Track
from svcnb.files.disk import WriteError

pytest.importorskip("pyworld")

RATE_HZ = 16000
TARGET_HZ, SOURCE_HZ = 220.0, 110.0


def tone(f0_hz: float, seconds: float = 1.0, *, sung: bool = False) -> Audio:
    """Harmonics with gliding f0 (speech) or constant f0 (singing); the last quarter is silent."""
    time_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    bend = np.zeros_like(time_s) if sung else np.sin(2 * np.pi * 2 * time_s / (0.75 * seconds)) / 3
    phase = 2 * np.pi * np.cumsum(f0_hz * 2**bend) / RATE_HZ
    samples = sum(np.sin(k * phase) / k for k in range(1, 10)) * 0.1
    return Audio(samples * (time_s < 0.75 * seconds), RATE_HZ)


@dataclass
class ToyVoice:
    """Returns its input at half the level, without transposing it."""

    name: str = "toy"
    step: int | None = 7
    has_posterior: bool = True
    weights: str = "a"
    converted: list[ConversionSettings] = field(default_factory=list)
    fails_at_s: float | None = None

    def fingerprint(self) -> str:
        return self.weights

    def speaker_name(self, speaker: str | int | None) -> str:
        return str(speaker or "ada")

    def estimate_f0(self, audio: Audio, method: str = "auto") -> F0Track:
        return PitchEstimator("dio", sample_rate_hz=audio.sample_rate_hz, hop_samples=160)(audio.samples)

    def convert(self, audio: Audio, settings: ConversionSettings | None = None) -> Audio:
        if self.fails_at_s is not None and abs(audio.duration_s - self.fails_at_s) < 0.01:
            raise SvcError("this one cannot be converted")
        self.converted.append(settings)
        return Audio(audio.samples * 0.5, audio.sample_rate_hz)

    def resynthesise(self, audio: Audio, speaker: str | int | None = None) -> Audio:
        return audio


class ToySimilarity:
    """Embedding: the rate of zero crossings as an angle."""

    def embed(self, recording: Audio) -> np.ndarray:
        if recording.peak == 0:
            raise SvcError("the recording is silent")
        angle = np.mean(np.diff(np.signbit(recording.samples))) * 60
        return np.array([np.cos(angle), np.sin(angle)])


class ToyRecogniser:
    """Gets one word wrong in every recording."""

    def count_errors(self, audio: Audio, transcript: str) -> WordErrors:
        return WordErrors(1, len(transcript.split()), "recognized")


@pytest.fixture(autouse=True)
def toy_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_run, "SpeakerSimilarity", ToySimilarity)
    monkeypatch.setattr(evaluation_run, "WordRecogniser", ToyRecogniser)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    for i in range(4):
        write_audio(tmp_path / "target" / f"t{i}.flac", tone(TARGET_HZ * (1 + 0.01 * i), 1.2))
    return tmp_path / "target"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for i in range(3):
        write_audio(tmp_path / "others" / f"s{i}.flac", tone(SOURCE_HZ, 1.0 + 0.2 * i))
    (tmp_path / "others" / "s0.txt").write_text("four words are here", encoding="utf-8")
    return tmp_path / "others"


def run(voice: ToyVoice, target: Path, sources: Path, **settings) -> VoiceEvaluation:
    return evaluate_voice(voice, target, [sources], target.parent / "out", EvaluationSettings(**settings))


def test_everything_is_measured_and_the_audio_files_are_kept(target: Path, sources: Path) -> None:
    found = run(ToyVoice(), target, sources, n_copies=2)
    assert [source.name for source in found.sources] == ["s0.flac", "s1.flac", "s2.flac"]
    assert [copy.name for copy in found.copies] == ["t0.flac", "t1.flac"]
    assert (found.voice, found.speaker, found.step, found.skipped) == ("toy", "ada", 7, ())
    source, copy = found.sources[0], found.copies[0]
    assert source.similarity_source == pytest.approx(source.similarity_result, abs=0.02)
    assert source.similarity_source < 0.95 < found.target.ceiling <= 1
    assert copy.copy.distance.mean_db == pytest.approx(0, abs=0.05) and copy.conversion.distance.mean_db < 0.1
    assert copy.copy.pitch.rmse_cents == pytest.approx(0, abs=1)
    for file in (source.file, copy.copy.file, copy.conversion.file):
        assert read_audio(target.parent / "out" / file).n_samples > 0


def test_sources_are_transposed_to_the_targets_f0_and_compared_with_it(target: Path, sources: Path) -> None:
    voice = ToyVoice()
    found = run(voice, target, sources, n_copies=0)
    assert [settings.transpose_semitones for settings in voice.converted] == [12, 12, 12]
    assert found.sources[0].pitch.median_shift_cents == pytest.approx(-1200, abs=30)  # not transposed
    assert found.sources[0].pitch.rmse_after_shift_cents < 100 < 1000 < found.sources[0].pitch.rmse_cents
    assert found.target.median_f0_hz == pytest.approx(TARGET_HZ, rel=0.1)


@pytest.mark.parametrize(
    ("transposition", "base", "moved"), [("none", 0, 0), ("none", 3, 3), ("octaves", -2, 10)]
)
def test_the_transposition_can_be_chosen(
    transposition: str, base: float, moved: float, target: Path, sources: Path
) -> None:
    voice = ToyVoice()
    conversion = ConversionSettings(transpose_semitones=base)
    run(voice, target, sources, transposition=transposition, conversion=conversion, n_copies=0, most=1)
    assert voice.converted[0].transpose_semitones == moved


def test_songs_are_transposed_by_octaves_without_counting_words(target: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "songs" / "song.flac", tone(SOURCE_HZ * 1.2, 2.0, sung=True))
    (tmp_path / "songs" / "song.txt").write_text("la la la", encoding="utf-8")
    voice = ToyVoice()
    (song,) = run(voice, target, tmp_path / "songs", n_copies=0).sources
    assert song.sung and song.transpose_semitones == 12 and song.words_result is None
    assert [choose_transposition(9, sung=sung) for sung in (False, True)] == [9, 12]


def test_words_are_counted_where_there_is_a_transcript(target: Path, sources: Path) -> None:
    found = run(ToyVoice(), target, sources, n_copies=0)
    assert [source.words_result and source.words_result.rate for source in found.sources] == [
        0.25,
        None,
        None,
    ]
    assert find_transcript(sources / "s0.flac") == "four words are here"


def test_words_of_a_recording_that_is_cut_short_are_not_counted(target: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "long" / "x.flac", tone(SOURCE_HZ, 2.0))
    (tmp_path / "long" / "x.txt").write_text("more than is measured", encoding="utf-8")
    (source,) = run(ToyVoice(), target, tmp_path / "long", n_copies=0, max_seconds=1).sources
    assert source.seconds == 1 and source.words_result is None


def test_known_results_are_not_measured_again(target: Path, sources: Path) -> None:
    first, voice = run(ToyVoice(), target, sources), ToyVoice()
    again = run(voice, target, sources)
    assert not voice.converted and again.sources == first.sources and again.copies == first.copies
    (target.parent / "out" / first.sources[1].file).unlink()
    assert run(voice, target, sources).sources == first.sources and len(voice.converted) == 1
    evaluate_voice(voice, target, [sources], target.parent / "out", overwrite=True)
    assert len(voice.converted) == 1 + 3 + 3


@pytest.mark.parametrize("change", ["weights", "settings", "recording", "transcript"])
def test_a_change_of_any_input_is_measured_again(change: str, target: Path, sources: Path) -> None:
    run(ToyVoice(), target, sources, n_copies=0)
    voice, settings = ToyVoice(), {}
    if change == "weights":
        voice.weights = "b"
    elif change == "settings":
        settings["conversion"] = ConversionSettings(noise_scale=0.1)
    elif change == "recording":
        write_audio(sources / "s0.flac", tone(SOURCE_HZ * 1.1, 1.0))
    else:
        (sources / "s0.txt").write_text("three other words", encoding="utf-8")
    run(voice, target, sources, n_copies=0, **settings)
    assert len(voice.converted) == (1 if change in ("recording", "transcript") else 3)


def test_an_interrupted_evaluation_resumes(target: Path, sources: Path) -> None:
    class Interrupted(ToyVoice):
        def convert(self, audio: Audio, settings: ConversionSettings | None = None) -> Audio:
            if len(self.converted) == 2:
                raise KeyboardInterrupt
            return super().convert(audio, settings)

    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(), target, sources, n_copies=0)
    assert len(VoiceEvaluation.load(target.parent / "out").sources) == 2
    voice = ToyVoice()
    assert len(run(voice, target, sources, n_copies=0).sources) == 3 and len(voice.converted) == 1


def test_failures_are_listed_and_the_others_are_measured(target: Path, sources: Path) -> None:
    (sources / "s3.flac").write_text("no sound")
    write_audio(target / "t9.flac", Audio(np.zeros(RATE_HZ), RATE_HZ))
    found = run(ToyVoice(fails_at_s=1.2), target, sources, n_copies=0)
    assert [source.name for source in found.sources] == ["s0.flac", "s2.flac"]
    assert [skipped.name for skipped in found.skipped] == ["t9.flac", "others/s1.flac", "others/s3.flac"]
    assert [
        reason in skipped.reason
        for reason, skipped in zip(("silent", "cannot", "s3"), found.skipped, strict=True)
    ] == [True] * 3
    assert found.target.n_recordings == 4
    repaired = run(ToyVoice(), target, sources, n_copies=0)
    assert len(repaired.sources) == 3 and len(repaired.skipped) == 2


def test_a_full_disk_ends_the_evaluation(
    target: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments):
        raise WriteError("the disk is full")

    monkeypatch.setattr(evaluation_run, "write_audio", full)
    with pytest.raises(WriteError, match="full"):
        run(ToyVoice(), target, sources)


def test_a_release_file_has_no_copy_synthesis_and_a_note_about_it(target: Path, sources: Path) -> None:
    found = run(ToyVoice(has_posterior=False), target, sources)
    assert all(copy.copy is None and copy.conversion for copy in found.copies)
    assert any("release file" in note for note in found.notes)


def test_one_recording_of_the_target_gives_no_ceiling_and_null_in_the_file(
    target: Path, sources: Path
) -> None:
    found = evaluate_voice(ToyVoice(), [target / "t0.flac"], [sources], target.parent / "out")
    assert math.isnan(found.target.ceiling) and math.isnan(found.copies[0].similarity)
    stored = json.loads((target.parent / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert stored["copies"][0]["similarity"] is None
    loaded = VoiceEvaluation.load(target.parent / "out")
    assert math.isnan(loaded.copies[0].similarity) and loaded.sources == found.sources


def test_readings_of_the_same_words_are_compared_when_asked_for(target: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "others" / "t1.flac", tone(SOURCE_HZ, 1.5))
    asked, not_asked = (
        run(ToyVoice(), target, tmp_path / "others", n_copies=0, parallel=on) for on in (True, False)
    )
    assert asked.sources[0].distance_result.aligned and asked.sources[0].distance_source.mean_db > 0
    assert not_asked.sources[0].distance_result is None


def test_an_empty_target_or_no_source_is_refused(target: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="no recordings in this folder"):
        run(ToyVoice(), tmp_path / "empty", target)
    with pytest.raises(SvcError, match="nothing to measure"):
        evaluate_voice(ToyVoice(), target, [], tmp_path / "out", EvaluationSettings(n_copies=0))
    write_audio(tmp_path / "silent" / "a.flac", Audio(np.zeros(RATE_HZ), RATE_HZ))
    with pytest.raises(
        SvcError, match=r"none of the target's 1 recordings.*a\.flac: the recording is silent"
    ):
        run(ToyVoice(), tmp_path / "silent", target)


def test_missing_packages_are_reported_before_any_conversion(
    target: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingExtra('pip install "svcnb[evaluate]"')

    monkeypatch.setattr(evaluation_run, "WordRecogniser", missing)
    voice = ToyVoice()
    with pytest.raises(MissingExtra, match="svcnb"):
        run(voice, target, sources)
    assert not voice.converted
    assert len(run(voice, target, sources, words=False).sources) == 3


def test_equal_names_in_two_folders_do_not_overwrite_each_other(target: Path, tmp_path: Path) -> None:
    for folder in ("a", "b/a"):
        write_audio(tmp_path / folder / "x.flac", tone(SOURCE_HZ))
    out = tmp_path / "out"
    found = evaluate_voice(
        ToyVoice(), target, [tmp_path / "a", tmp_path / "b" / "a"], out, EvaluationSettings(n_copies=0)
    )
    assert len({source.file for source in found.sources}) == 2 == len(list((out / "converted").iterdir()))
    assert len({source.key for source in found.sources}) == 2


def test_relative_similarity_is_between_source_and_ceiling() -> None:
    assert relative_similarity(0.5, 0.8, 0.9) == pytest.approx(0.75)
    assert math.isnan(relative_similarity(0.85, 0.9, 0.9)) and math.isnan(
        relative_similarity(0.5, 0.8, math.nan)
    )


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"version": 1}',
        '{"voice": "x", "speaker": "y", "version": 99, "target":'
        ' {"n_recordings": 1, "similarities": [], "middle_pitch_hz": 0}}',
    ],
)
def test_another_version_is_an_error_or_is_overwritten(content: str, target: Path, sources: Path) -> None:
    out = target.parent / "out"
    out.mkdir()
    (out / "evaluation.json").write_text(content, encoding="utf-8")
    with pytest.raises(SvcError, match=r"evaluation\.json"):
        run(ToyVoice(), target, sources)
    assert evaluate_voice(ToyVoice(), target, [sources], out, overwrite=True).sources


def test_held_out_clips_become_the_target(tmp_path: Path) -> None:
    from svcnb.data.feature_store import ClipRecord, FeatureSettings, FeatureStore

    settings = FeatureSettings(sample_rate_hz=RATE_HZ, hop_samples=160, encoder="x", pitch_method="x")
    store = FeatureStore.create(tmp_path / "features", settings)
    samples = (tone(TARGET_HZ, 1.0).samples * 32767).astype(np.int16)
    records = [
        ClipRecord(f"{who}/{i}.flac", who, 1, 1, 100, 1, ("audio",))
        for who in ("ada", "bob")
        for i in range(10)
    ]
    store.add([(record, {"audio": samples}) for record in records])
    store.merge([record.name for record in records])
    paths = held_out_clips(tmp_path / "features", tmp_path / "own", speaker="ada")
    assert paths and all(path.name.startswith("ada_") for path in paths)
    assert np.allclose(read_audio(paths[0]).samples, samples / 32768, atol=1e-4)
    with pytest.raises(SvcError, match="no clip of eve"):
        held_out_clips(tmp_path / "features", tmp_path / "own", speaker="eve")
