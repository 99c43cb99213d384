"""Warm start of new voices, and the bundled base voice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pretrain.make_base_voice import TRAINED_HZ, extend_upwards, write_base
from svcnb import SvcError
from svcnb.files.checkpoint import read_safetensors, to_plain_names
from svcnb.models import sovits
from svcnb.models.sovits import checkpoint as sovits_base
from svcnb.models.sovits.checkpoint import (
    FINE_TUNING_BASE_RATIO,
    KEPT_BASE,
    choose_base,
    keep_base,
    kept_base,
    read_sovits_checkpoint,
    start_from,
    use_fine_tuning,
)
from svcnb.models.sovits.step import as_saved, fresh_state, load_run, save_run
from svcnb.nn.frame_decoder import SUBFRAMES
from svcnb.training.checkpoints import RunRecord, SavedCheckpoint
from svcnb.training.settings import TrainSettings
from svcnb.training.state import TrainState
from tests.toys.toy_voice import write_voice


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An untrained bundled base voice of two speakers."""
    voice = write_voice(tmp_path / "voice", steps=(7,))
    kept = [SavedCheckpoint(step=7, files=["G_7.pth"])]
    RunRecord(
        step=7, epoch=1, batch=0, seconds=120, checkpoints=kept, schedules={}, scaler=None, rng={}
    ).save(voice)
    monkeypatch.setattr(sovits_base, "BUNDLED_BASE", tmp_path / "base_voice.safetensors")
    return write_base(voice, tmp_path / "base_voice.safetensors", "nobody's data")


def test_a_small_voice_with_the_bundled_encoder_starts_from_the_bundled_base(bundled: Path) -> None:
    config = sovits.Config.small()
    assert choose_base("auto", config) == bundled
    config.model.vol_embedding, config.model.n_speakers = True, 3
    assert choose_base("auto", config) == bundled


@pytest.mark.parametrize("base", ["none", None])
def test_none_starts_from_nothing(bundled: Path, base: str | None) -> None:
    assert choose_base(base, sovits.Config.small()) is None


def test_voices_of_other_sizes_or_another_encoder_start_from_nothing(bundled: Path) -> None:
    wider, encoder, full = sovits.Config.small(), sovits.Config.small(), sovits.Config.full()
    wider.model.hidden_channels = 128
    encoder.use_encoder("hubertsoft", 256)
    assert [choose_base("auto", config) for config in (wider, encoder, full)] == [None] * 3


def test_a_named_base_is_always_used(bundled: Path, tmp_path: Path) -> None:
    assert choose_base(str(tmp_path / "G_0.pth"), sovits.Config.full()) == tmp_path / "G_0.pth"


def test_only_voices_from_the_bundled_base_are_fine_tuned(bundled: Path, tmp_path: Path) -> None:
    fine_tuning = (sovits_base.FINE_TUNING_RATE, FINE_TUNING_BASE_RATIO)
    for base, expected in ((bundled, fine_tuning), (tmp_path / "G_0.pth", (1e-3, 0)), (None, (1e-3, 0))):
        config = sovits.Config.small()
        use_fine_tuning(config, base)
        assert (config.train.learning_rate, config.train.base_share) == expected


def test_a_voice_with_loudness_input_starts_from_a_base_without(bundled: Path) -> None:
    config = sovits.Config.small()
    config.model.vol_embedding, config.model.n_speakers = True, 1
    generator = sovits.build(config).generator
    start_from(bundled, generator, None)
    stored = read_safetensors(bundled)[0]
    torch.testing.assert_close(generator.emb_g.weight[0], stored["emb_g.weight"].float().mean(0))
    assert torch.equal(generator.pre.weight, stored["pre.weight"].float())


def test_the_written_base_has_metadata_about_its_training(bundled: Path) -> None:
    about = json.loads(read_safetensors(bundled)[1]["svcnb"])
    config = about.pop("config")
    assert about == {"kind": "base voice", "data": "nobody's data", "steps": 7, "minutes": 2}
    assert (
        config["model"]["speech_encoder"] == "svcnb-units"
        and sovits_base.bundled_config().to_dict() == config
    )


def test_a_base_trained_further_includes_the_earlier_steps(bundled: Path, tmp_path: Path) -> None:
    later = write_base(tmp_path / "voice", tmp_path / "later.safetensors", "nobody's data", start=bundled)
    about = json.loads(read_safetensors(later)[1]["svcnb"])
    assert (about["steps"], about["minutes"]) == (14, 4)


def test_bands_missing_in_the_training_data_start_as_the_highest_available_ones() -> None:
    config = sovits.Config.small()
    torch.manual_seed(0)
    before = to_plain_names(sovits.build(config).generator.state_dict())
    after = extend_upwards(before, config)
    old, new = (state["dec.head.weight"].unflatten(0, (SUBFRAMES * 4, -1)) for state in (before, after))
    bin_hz = config.data.sampling_rate / 2 / (old.shape[1] - 1)
    first, last = round(7000 / bin_hz), round(TRAINED_HZ / bin_hz)
    assert torch.equal(new[:, :last], old[:, :last])
    torch.testing.assert_close(new[:, -1], old[:, first:last].mean(1))
    assert (
        after["enc_q.pre.weight"][:, -100:].abs().max()
        == 0
        < before["enc_q.pre.weight"][:, -100:].abs().max()
    )


def trained_a_little(base: Path) -> tuple[sovits.Config, TrainState]:
    """A state whose every weight is 0.1 from the base's."""
    config = sovits.Config.small()
    use_fine_tuning(config, base)
    state = fresh_state(config, TrainSettings(device="cpu"), base=base)
    with torch.no_grad():
        for parameter in state.generator.parameters():
            parameter += 0.1
    return config, state


def test_a_fine_tuned_voice_is_saved_interpolated_with_its_base(bundled: Path, tmp_path: Path) -> None:
    config, state = trained_a_little(bundled)
    save_run(state, tmp_path, config=config)
    saved = read_sovits_checkpoint(tmp_path / "G_0.pth").model
    start = read_safetensors(bundled)[0]
    torch.testing.assert_close(
        saved["pre.weight"], start["pre.weight"].float() + 0.1 * (1 - FINE_TUNING_BASE_RATIO)
    )
    speakers = start["emb_g.weight"].float().mean(0, keepdim=True)
    message = "speaker embeddings are not interpolated"
    torch.testing.assert_close(saved["emb_g.weight"], speakers + 0.1, msg=message)


def test_training_resumes_with_its_own_weights_bit_by_bit(bundled: Path, tmp_path: Path) -> None:
    config, state = trained_a_little(bundled)
    before = {name: value.clone() for name, value in state.generator.state_dict().items()}
    save_run(state, tmp_path, config=config)
    resumed = fresh_state(config, TrainSettings(device="cpu"), base=bundled)
    load_run(resumed, tmp_path, 0)
    for network in (state.generator, resumed.generator):
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name]), name


def test_held_out_clips_are_synthesized_with_the_saved_weights(bundled: Path) -> None:
    _, state = trained_a_little(bundled)
    own = state.generator.pre.weight.detach().clone()
    with as_saved(state):
        assert not torch.equal(state.generator.pre.weight, own)
    assert torch.equal(state.generator.pre.weight, own)


def test_a_run_whose_base_was_removed_raises(bundled: Path, tmp_path: Path) -> None:
    config = sovits.Config.small()
    use_fine_tuning(config, bundled)
    keep_base(bundled, tmp_path / "kept", config)
    assert kept_base(tmp_path / "kept", config).read_bytes() == bundled.read_bytes()
    (tmp_path / "kept" / KEPT_BASE).unlink()
    with pytest.raises(SvcError, match="put the base voice"):
        kept_base(tmp_path / "kept", config)
