"""How the learned encoder is made and measured: labels, bent voices, losses, resuming, probes."""

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
from pretrain.make_encoder import EncoderTraining, learn_average_reader, run
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
    pieces,
    pronounce,
)
from svcnb import SvcError
from svcnb.audio.audio import read_audio
from svcnb.evaluation.words import find_transcript, normalise_text
from svcnb.features.content.bundled import ContentNetwork, ContentNetworkSettings, load_network
from tests.places import DEMO_VOICES
from tests.unit.features.content.test_encoders import RATE_HZ, voice_like

SMALL = ContentNetworkSettings(n_bands=20, channels=16, n_blocks=2, kernel_size=5, n_content=6)
N_HEARD = 7


@pytest.fixture
def store(tmp_path: Path) -> ClipStore:
    spoken = tuple(Phone(1 + i % 5, 0.1 * (i + 1), 0.8) for i in range(25))
    for number in range(4):
        speaker = f"{'flite-x' if number % 2 else 'reader'}{number}"
        clip = LabelledClip("some words", speaker, voice_like(3 * RATE_HZ, seed=number), spoken)
        heard = torch.nn.functional.one_hot(torch.from_numpy(clip.frame_labels()[0]), N_HEARD).float()
        save_clip(clip, heard, tmp_path / f"{number}.npz")
    return ClipStore(tmp_path)


def demo_sentence() -> tuple[Path, str]:
    recording = sorted((DEMO_VOICES / "raw" / "ada").glob("*.flac"))[0]
    return recording, normalise_text(find_transcript(recording))


# labels


def test_a_frame_has_the_phone_at_its_middle_and_no_trust_beyond_the_last() -> None:
    clip = LabelledClip("", "x", np.zeros(6 * 320 + 5, np.float32), (Phone(3, 0.025), Phone(7, 0.095, 0.5)))
    labels, trust = clip.frame_labels()
    assert labels.tolist() == [3, 7, 7, 7, 7, 0]  # middles at 10, 30, 50, 70, 90 and 110 ms
    assert trust.tolist() == [1, 0.5, 0.5, 0.5, 0.5, 0]


def test_both_programs_phone_names_are_one_set() -> None:
    assert [PHONES[phone_index(name)] for name in ("ax", "AH", "pau", "SIL", "+NSN+", "zh")] == ["AH", "AH", "SIL", "SIL", "SIL", "ZH"]
    with pytest.raises(SvcError, match="phone 'qq' is not known"):
        phone_index("qq")


def test_texts_are_cut_into_pieces_of_some_words() -> None:
    assert pieces(["a b c d e", "f"], 2) == ["a b", "c d", "e", "f"]


def test_a_word_is_pronounced_as_flite_prints_it_and_one_of_no_sounds_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = {"haps": "pau hh ae p s pau\n", "_": "pau pau"}
    monkeypatch.setattr(phones, "_flite", lambda *arguments: printed[arguments[-2]])
    assert [PHONES[index] for index in pronounce("haps")] == ["HH", "AE", "P", "S"]
    with pytest.raises(SvcError, match="'_' cannot be pronounced"):
        pronounce("_")


def test_without_flite_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SvcError, match="apt-get install flite"):
        pronounce("haps")


def test_a_word_that_the_dictionary_lacks_is_aligned_as_flite_pronounces_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pocketsphinx")
    recording, text = demo_sentence()
    aligner = Aligner()
    known = text.split()[2]
    monkeypatch.setattr(phones, "_flite", lambda *arguments: aligner._decoder.lookup_word(known).lower())
    samples = read_audio(recording, sample_rate_hz=SAMPLE_RATE_HZ).samples
    found = [aligner.align_text("ada", samples, said).phones for said in (text, text.replace(known, "xyzzyq", 1))]
    assert [phone.index for phone in found[1]] == [phone.index for phone in found[0]]


def test_a_folder_without_moonshine_is_told_what_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(SvcError, match="no tiny/quantized/encoder_model.onnx under"):
        Moonshine(tmp_path)


def test_a_vocabulary_is_read_from_the_tokenizers_script(tmp_path: Path) -> None:
    script = tmp_path / "llama-tokenizer.js"
    script.write_text('x;\nvar vocab_base64 = "' + base64.b64encode("<s>\n\u2581the\nn".encode()).decode() + '";')
    assert _vocabulary(script) == ["<s>", "\u2581the", "n"]
    script.write_text("nothing")
    with pytest.raises(SvcError, match="has no vocabulary in it"):
        _vocabulary(script)


def test_a_known_text_gets_all_its_phones_and_a_sound_without_it_none() -> None:
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


def test_views_have_the_crops_frames_and_differ_from_each_other(store: ClipStore) -> None:
    network = ContentNetwork(SMALL)
    maker = BatchMaker(store, network.bands, settings=PerturbSettings(), seed=3)
    batch = maker.draw(3, 1.5, store.shares(0.5))
    assert (batch.views.shape, batch.plain.shape, batch.labels.shape) == ((6, 150, 20), (3, 150, 20), (3, 75))
    assert torch.isfinite(batch.views).all()
    first, second = batch.views.chunk(2)
    assert (first - second).abs().mean() > 0.1
    assert network(batch.views).shape == (6, 75, 6)


def test_an_unbent_crop_has_the_bands_and_labels_of_its_place(store: ClipStore) -> None:
    """The same frames as an analysis of the whole recording gives, in spite of the other way there."""
    network = ContentNetwork(SMALL)
    maker = BatchMaker(store, network.bands, settings=PerturbSettings(pace_ratio=1.0), seed=3)
    samples, labels, trust, heard, pace = maker._crop(store.clips[0], 50)
    ours = maker._power(samples[None], 50, pitch=np.ones(1), warp=np.ones(1), pace=np.ones(1))[0]
    margin = RATE_HZ // 2
    whole = network.bands.power(samples[None, margin:])[0]
    assert pace == 1.0
    torch.testing.assert_close(ours[2:98], whole[2:98], rtol=1e-3, atol=1e-9)
    assert set(labels.tolist()) <= {0, 1, 2, 3, 4, 5}
    assert set(np.round(trust.astype(float), 2).tolist()) <= {0.0, 0.8}
    inside = labels >= 0
    told = heard * store.heard_spread + store.heard_mean  # each frame's label, as a one among noughts
    assert told[inside].argmax(1).tolist() == labels[inside].tolist()


def test_the_synthetic_share_is_kept(store: ClipStore) -> None:
    shares = store.shares(0.3)
    synthetic = [str(clip["speaker"]).startswith("flite") for clip in store.clips]
    assert shares[synthetic].sum() == pytest.approx(0.3)
    assert shares.sum() == pytest.approx(1.0)


def test_an_empty_folder_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SvcError, match="run pretrain.make_encoder_data first"):
        ClipStore(tmp_path / "nothing")


# training


def _train(
    store: ClipStore, state: Path, *, steps: int, stopped: bool = False, former: ContentNetwork | None = None
) -> EncoderTraining:
    torch.manual_seed(0)
    network = ContentNetwork(SMALL)
    learn_average_reader(network, store)
    training = EncoderTraining(network, store.speakers, N_HEARD, losses=LossSettings(keep=10.0), learning_rate=3e-3, device="cpu")
    if former:
        training.losses.hold_to(former, torch.tensor([speaker.startswith("reader") for speaker in store.speakers]))
    if state.exists():
        training.load(state)
    maker = BatchMaker(store, network.bands, settings=PerturbSettings(), seed=training.step)
    options = {"synthetic_share": 0.5, "minutes": 1.0, "steps": steps, "clips": 2, "seconds": 1.0, "state": state, "attribution": ""}
    stop = threading.Event()
    if stopped:
        stop.set()
    run(training, maker, argparse.Namespace(**options), stop)
    return training


def test_training_learns_goes_on_where_it_stopped_and_writes_an_encoder(store: ClipStore, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    first = _train(store, state, steps=3)
    resumed = _train(store, state, steps=40)
    assert (first.step, resumed.step) == (3, 40)
    batch = BatchMaker(store, resumed.network.bands, settings=PerturbSettings(), seed=9).draw(4, 1.0, store.shares(0.5))
    with torch.no_grad():
        before, after = (t.losses(batch, 0, torch.Generator().manual_seed(0)) for t in (first, resumed))
    assert after["describe"] < before["describe"]
    assert after["phone"] < before["phone"]
    assert after["hear"] < before["hear"]
    written = load_network(tmp_path / "state.safetensors")
    torch.testing.assert_close(written.narrow.weight, resumed.average["narrow.weight"], atol=1e-3, rtol=0)


def test_a_wish_to_stop_is_heard_before_the_next_step_and_saves_the_state(store: ClipStore, tmp_path: Path) -> None:
    _train(store, tmp_path / "state.pt", steps=3)
    assert _train(store, tmp_path / "state.pt", steps=40, stopped=True).step == 3


def test_held_to_an_earlier_encoder_it_comes_near_it_for_the_speakers_that_one_knows(store: ClipStore, tmp_path: Path) -> None:
    torch.manual_seed(5)
    former = ContentNetwork(SMALL)
    before = {name: value.clone() for name, value in former.state_dict().items()}
    free = _train(store, tmp_path / "free.pt", steps=60)
    held = _train(store, tmp_path / "held.pt", steps=60, former=former)
    batch = BatchMaker(store, held.network.bands, settings=PerturbSettings(), seed=9).draw(4, 1.0, store.shares(0.0))
    with torch.no_grad():
        away = [float((t.network(batch.plain) - former(batch.plain)).square().mean()) for t in (free, held)]
    assert away[1] < 0.6 * away[0]
    for name, value in former.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_what_is_written_lies_between_the_earlier_encoder_and_the_trained_one(store: ClipStore, tmp_path: Path) -> None:
    training = _train(store, tmp_path / "state.pt", steps=3)
    torch.manual_seed(5)
    training.go_on_from(ContentNetwork(SMALL), torch.ones(len(store.speakers), dtype=torch.bool), share=0.25)
    training.save(tmp_path / "state.pt", {})
    written = load_network(tmp_path / "state.safetensors").narrow.weight
    expected = 0.25 * training.former["narrow.weight"] + 0.75 * training.average["narrow.weight"]
    torch.testing.assert_close(written, expected, atol=1e-3, rtol=0)


# measures


def test_a_linear_probe_finds_what_is_there_and_nothing_else() -> None:
    torch.manual_seed(0)
    labels = torch.arange(400) % 4
    centres = torch.randn(4, 8) * 3
    told, untold = centres[labels] + torch.randn(400, 8), torch.randn(400, 8)
    assert linear_probe((told[:200], labels[:200]), [(told[200:], labels[200:])], n_classes=4)[0] > 0.9
    assert linear_probe((untold[:200], labels[:200]), [(untold[200:], labels[200:])], n_classes=4)[0] < 0.4


def test_abx_is_zero_for_phones_apart_and_a_half_for_phones_alike() -> None:
    torch.manual_seed(0)
    apart = [{i: torch.eye(5)[i] + 0.1 * torch.randn(6, 5) for i in range(4)} for _ in range(2)]
    alike = [{i: torch.randn(30, 5) for i in range(4)} for _ in range(2)]
    assert abx_error(*apart) < 0.02
    assert abx_error(*alike) == pytest.approx(0.5, abs=0.05)
