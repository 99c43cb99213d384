"""Training and evaluation of the learned encoder: labels, perturbation, losses, resuming, probes."""

from __future__ import annotations

import argparse
import base64
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain import phones
from pretrain.encoder_batches import BatchMaker, ClipStore, PerturbSettings
from pretrain.encoder_losses import LossSettings
from pretrain.make_encoder import EncoderTraining, run, set_prior_statistics
from pretrain.make_encoder_data import save_clip
from pretrain.measure_encoder import abx_error, linear_probe
from pretrain.moonshine import Moonshine, _vocabulary
from pretrain.phones import (
    PHONES,
    SAMPLE_RATE_HZ,
    Aligner,
    LabelledClip,
    Phone,
    phone_index,
    pronounce,
    split_texts,
)
from svcnb import SvcError
from svcnb.audio.audio import read_audio
from svcnb.evaluation.words import find_transcript, normalise_text
from svcnb.features.content.bundled import ContentNetwork, ContentNetworkSettings, load_network
from tests.places import DEMO_VOICES
from tests.unit.features.content.test_encoders import RATE_HZ, voice_like

SMALL = ContentNetworkSettings(n_bands=20, channels=16, n_blocks=2, kernel_size=5, n_content=6)
N_TEACHER = 7


@pytest.fixture
def store(tmp_path: Path) -> ClipStore:
    labels = tuple(Phone(1 + i % 5, 0.1 * (i + 1), 0.8) for i in range(25))
    for number in range(4):
        speaker = f"{'flite-x' if number % 2 else 'reader'}{number}"
        clip = LabelledClip("some words", speaker, voice_like(3 * RATE_HZ, seed=number), labels)
        teacher = torch.nn.functional.one_hot(torch.from_numpy(clip.frame_labels()[0]), N_TEACHER).float()
        save_clip(clip, teacher, tmp_path / f"{number}.npz")
    return ClipStore(tmp_path)


def demo_sentence() -> tuple[Path, str]:
    recording = sorted((DEMO_VOICES / "raw" / "ada").glob("*.flac"))[0]
    return recording, normalise_text(find_transcript(recording))


# labels


def test_a_frame_has_the_phone_at_its_center_and_no_trust_after_the_last() -> None:
    clip = LabelledClip("", "x", np.zeros(6 * 320 + 5, np.float32), (Phone(3, 0.025), Phone(7, 0.095, 0.5)))
    labels, trust = clip.frame_labels()
    assert labels.tolist() == [3, 7, 7, 7, 7, 0]  # centers at 10, 30, 50, 70, 90 and 110 ms
    assert trust.tolist() == [1, 0.5, 0.5, 0.5, 0.5, 0]


def test_phone_names_of_both_programs_map_to_one_set() -> None:
    assert [PHONES[phone_index(name)] for name in ("ax", "AH", "pau", "SIL", "+NSN+", "zh")] == [
        "AH",
        "AH",
        "SIL",
        "SIL",
        "SIL",
        "ZH",
    ]
    with pytest.raises(SvcError, match="phone 'qq' is not known"):
        phone_index("qq")


def test_texts_are_split_into_parts_of_a_few_words() -> None:
    assert split_texts(["a b c d e", "f"], 2) == ["a b", "c d", "e", "f"]


def test_a_word_gets_flites_pronunciation_and_one_without_phones_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed = {"haps": "pau hh ae p s pau\n", "_": "pau pau"}
    monkeypatch.setattr(phones, "_flite", lambda *arguments: printed[arguments[-2]])
    assert [PHONES[index] for index in pronounce("haps")] == ["HH", "AE", "P", "S"]
    with pytest.raises(SvcError, match="'_' cannot be pronounced"):
        pronounce("_")


def test_without_flite_the_error_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SvcError, match="apt-get install flite"):
        pronounce("haps")


def test_a_word_missing_in_the_dictionary_is_aligned_with_flites_pronunciation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("pocketsphinx")
    recording, text = demo_sentence()
    aligner = Aligner()
    known = text.split()[2]
    monkeypatch.setattr(phones, "_flite", lambda *arguments: aligner._decoder.lookup_word(known).lower())
    samples = read_audio(recording, sample_rate_hz=SAMPLE_RATE_HZ).samples
    found = [
        aligner.align_text("ada", samples, words).phones for words in (text, text.replace(known, "xyzzyq", 1))
    ]
    assert [phone.index for phone in found[1]] == [phone.index for phone in found[0]]


def test_the_error_for_a_folder_without_moonshine_names_the_missing_file(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(SvcError, match="no tiny/quantized/encoder_model.onnx under"):
        Moonshine(tmp_path)


def test_a_vocabulary_is_read_from_the_tokenizers_script(tmp_path: Path) -> None:
    script = tmp_path / "llama-tokenizer.js"
    script.write_text(
        'x;\nvar vocab_base64 = "' + base64.b64encode("<s>\n\u2581the\nn".encode()).decode() + '";'
    )
    assert _vocabulary(script) == ["<s>", "\u2581the", "n"]
    script.write_text("nothing")
    with pytest.raises(SvcError, match="has no vocabulary in it"):
        _vocabulary(script)


def test_a_known_text_gets_all_its_phones_and_other_audio_none() -> None:
    pytest.importorskip("pocketsphinx")
    recording, text = demo_sentence()
    samples = read_audio(recording, sample_rate_hz=SAMPLE_RATE_HZ).samples
    aligner = Aligner()
    clip = aligner.align_text("ada", samples, text)
    assert {phone.trust for phone in clip.phones} == {1.0}
    assert len(clip.phones) > 2 * len(text.split())
    assert clip.phones[-1].end_s == pytest.approx(len(samples) / SAMPLE_RATE_HZ, abs=0.1)
    assert aligner.align_text("ada", samples[: SAMPLE_RATE_HZ // 2], text).phones == ()


# batches


def test_views_have_the_frames_of_the_crop_and_differ_from_each_other(store: ClipStore) -> None:
    network = ContentNetwork(SMALL)
    maker = BatchMaker(store, network.bands, settings=PerturbSettings(), seed=3)
    batch = maker.draw(3, 1.5, store.probabilities(0.5))
    assert (batch.views.shape, batch.plain.shape, batch.labels.shape) == ((6, 150, 20), (3, 150, 20), (3, 75))
    assert torch.isfinite(batch.views).all()
    first, second = batch.views.chunk(2)
    assert (first - second).abs().mean() > 0.1
    assert network(batch.views).shape == (6, 75, 6)


def test_an_unperturbed_crop_has_the_bands_and_labels_of_its_position(store: ClipStore) -> None:
    """The frames equal those of an analysis of the whole recording, which is computed differently."""
    network = ContentNetwork(SMALL)
    maker = BatchMaker(store, network.bands, settings=PerturbSettings(pace_ratio=1.0), seed=3)
    samples, labels, trust, teacher, pace = maker._crop(store.clips[0], 50)
    ours = maker._power(samples[None], 50, pitch=np.ones(1), warp=np.ones(1), pace=np.ones(1))[0]
    margin = RATE_HZ // 2
    whole = network.bands.power(samples[None, margin:])[0]
    assert pace == 1.0
    torch.testing.assert_close(ours[2:98], whole[2:98], rtol=1e-3, atol=1e-9)
    assert set(labels.tolist()) <= {0, 1, 2, 3, 4, 5}
    assert set(np.round(trust.astype(float), 2).tolist()) <= {0.0, 0.8}
    inside = labels >= 0
    one_hot = teacher * store.teacher_std + store.teacher_mean  # of each frame's label
    assert one_hot[inside].argmax(1).tolist() == labels[inside].tolist()


def test_the_ratio_of_synthetic_clips_is_as_requested(store: ClipStore) -> None:
    probabilities = store.probabilities(0.3)
    synthetic = [str(clip["speaker"]).startswith("flite") for clip in store.clips]
    assert probabilities[synthetic].sum() == pytest.approx(0.3)
    assert probabilities.sum() == pytest.approx(1.0)


def test_the_error_for_an_empty_folder_names_the_fix(tmp_path: Path) -> None:
    with pytest.raises(SvcError, match="run pretrain.make_encoder_data first"):
        ClipStore(tmp_path / "nothing")


# training


def _train(
    store: ClipStore, state: Path, *, steps: int, stopped: bool = False, base: ContentNetwork | None = None
) -> EncoderTraining:
    torch.manual_seed(0)
    network = ContentNetwork(SMALL)
    set_prior_statistics(network, store)
    training = EncoderTraining(
        network, store.speakers, N_TEACHER, losses=LossSettings(keep=10.0), learning_rate=3e-3, device="cpu"
    )
    if base:
        training.losses.regularize_towards(
            base, torch.tensor([speaker.startswith("reader") for speaker in store.speakers])
        )
    if state.exists():
        training.load(state)
    maker = BatchMaker(store, network.bands, settings=PerturbSettings(), seed=training.step)
    options = {
        "synthetic_ratio": 0.5,
        "minutes": 1.0,
        "steps": steps,
        "clips": 2,
        "seconds": 1.0,
        "state": state,
        "attribution": "",
    }
    stop = threading.Event()
    if stopped:
        stop.set()
    run(training, maker, argparse.Namespace(**options), stop)
    return training


def test_training_reduces_losses_resumes_and_writes_an_encoder(store: ClipStore, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    first = _train(store, state, steps=3)
    resumed = _train(store, state, steps=40)
    assert (first.step, resumed.step) == (3, 40)
    batch = BatchMaker(store, resumed.network.bands, settings=PerturbSettings(), seed=9).draw(
        4, 1.0, store.probabilities(0.5)
    )
    with torch.no_grad():
        before, after = (t.losses(batch, 0, torch.Generator().manual_seed(0)) for t in (first, resumed))
    assert after["describe"] < before["describe"]
    assert after["phone"] < before["phone"]
    assert after["hear"] < before["hear"]
    written = load_network(tmp_path / "state.safetensors")
    torch.testing.assert_close(written.narrow.weight, resumed.average["narrow.weight"], atol=1e-3, rtol=0)


def test_a_stop_request_takes_effect_before_the_next_step_and_saves_the_state(
    store: ClipStore, tmp_path: Path
) -> None:
    _train(store, tmp_path / "state.pt", steps=3)
    assert _train(store, tmp_path / "state.pt", steps=40, stopped=True).step == 3


def test_regularization_reduces_the_distance_to_a_base_encoder(store: ClipStore, tmp_path: Path) -> None:
    torch.manual_seed(5)
    base = ContentNetwork(SMALL)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    free = _train(store, tmp_path / "free.pt", steps=60)
    regularized = _train(store, tmp_path / "regularized.pt", steps=60, base=base)
    batch = BatchMaker(store, regularized.network.bands, settings=PerturbSettings(), seed=9).draw(
        4, 1.0, store.probabilities(0.0)
    )
    with torch.no_grad():
        distances = [
            float((t.network(batch.plain) - base(batch.plain)).square().mean()) for t in (free, regularized)
        ]
    assert distances[1] < 0.6 * distances[0]
    for name, value in base.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_written_weights_are_interpolated_between_base_and_trained_encoder(
    store: ClipStore, tmp_path: Path
) -> None:
    training = _train(store, tmp_path / "state.pt", steps=3)
    torch.manual_seed(5)
    training.set_base(ContentNetwork(SMALL), torch.ones(len(store.speakers), dtype=torch.bool), ratio=0.25)
    training.save(tmp_path / "state.pt", {})
    written = load_network(tmp_path / "state.safetensors").narrow.weight
    expected = 0.25 * training.base_state["narrow.weight"] + 0.75 * training.average["narrow.weight"]
    torch.testing.assert_close(written, expected, atol=1e-3, rtol=0)


# evaluation


def test_a_linear_probe_is_accurate_for_separable_and_at_chance_for_random_features() -> None:
    torch.manual_seed(0)
    labels = torch.arange(400) % 4
    centers = torch.randn(4, 8) * 3
    separable, random = centers[labels] + torch.randn(400, 8), torch.randn(400, 8)
    assert (
        linear_probe((separable[:200], labels[:200]), [(separable[200:], labels[200:])], n_classes=4)[0] > 0.9
    )
    assert linear_probe((random[:200], labels[:200]), [(random[200:], labels[200:])], n_classes=4)[0] < 0.4


def test_abx_error_is_zero_for_distinct_and_a_half_for_equal_phones() -> None:
    torch.manual_seed(0)
    distinct = [{i: torch.eye(5)[i] + 0.1 * torch.randn(6, 5) for i in range(4)} for _ in range(2)]
    equal = [{i: torch.randn(30, 5) for i in range(4)} for _ in range(2)]
    assert abx_error(*distinct) < 0.02
    assert abx_error(*equal) == pytest.approx(0.5, abs=0.05)
