"""Tests of the feature store, of extraction, and of training batches."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from svcnb import SvcError
from svcnb.data import feature_store
from svcnb.data.extraction import extract, scan_clips
from svcnb.data.feature_store import Clip, FeatureStore
from tests.places import PROJECT
from tests.toys.toy_features import HOP, RATE_HZ, SETTINGS, ToyExtractor, make_toy, refuse, write_clips


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return write_clips(tmp_path / "clips", 12)


def test_scan_finds_speakers_in_order_and_clips_in_natural_order(clips):
    assert [clip.name for clip in clips[:3]] == ["ada/take 0.wav", "ada/take 2.wav", "ada/take 4.wav"]
    assert [clip.name for clip in clips][5:7] == ["ada/take 10.wav", "bob/take 1.wav"]


def test_scan_errors_name_what_is_missing(tmp_path):
    with pytest.raises(SvcError, match="no such folder"):
        scan_clips(tmp_path / "nowhere")
    soundfile.write(tmp_path / "loose.wav", np.zeros(100), RATE_HZ)
    with pytest.raises(SvcError, match="1 audio files but no speaker folder.*SPEAKER"):
        scan_clips(tmp_path)


def test_stored_arrays_equal_the_extracted_ones(tmp_path, clips):
    report = extract(clips, tmp_path / "store", SETTINGS, make_extractor=make_toy)
    store = FeatureStore.open(tmp_path / "store", SETTINGS)
    assert store.names() == report.done == [clip.name for clip in clips]
    expected = ToyExtractor(SETTINGS, pause_s=0, diary=None)
    expected.for_speaker("ada", clips[:6])
    for name, array in expected(clips[2]).items():
        stored = store.read(clips[2].name)[name]
        assert stored.dtype == array.dtype and np.array_equal(stored, array)
    assert store.speakers() == ["ada", "bob"]


def test_floating_point_audio_is_stored_as_int16_and_clipped():
    from svcnb.data.extraction import _checked

    arrays = {"audio": np.array([0.5, -1.0, 2.0] * 400), "content": np.ones((5, 2)), "f0_hz": np.zeros(15)}
    settings = SETTINGS.model_copy(update={"with_volume": False})
    _, stored = _checked(Clip(Path("a"), "a", "a"), os.stat("."), arrays, settings)
    assert stored["audio"][:3].tolist() == [16384, -32768, 32767]


def test_a_second_call_extracts_nothing_and_changes_no_byte(tmp_path, clips):
    extract(clips, tmp_path / "store", SETTINGS, make_extractor=make_toy)
    before = bytes_of(tmp_path / "store")
    report = extract(clips, tmp_path / "store", SETTINGS, make_extractor=make_toy)
    assert (len(report.done), len(report.reused)) == (0, 12)
    assert bytes_of(tmp_path / "store") == before


def test_a_changed_clip_is_extracted_again_and_a_removed_one_is_dropped(tmp_path, clips):
    extract(clips, tmp_path / "store", SETTINGS, make_extractor=make_toy)
    soundfile.write(clips[1].path, np.full(8000, 0.25), RATE_HZ)
    clips[0].path.unlink()
    report = extract(scan_clips(tmp_path / "clips"), tmp_path / "store", SETTINGS, make_extractor=make_toy)
    store = FeatureStore.open(tmp_path / "store")
    assert report.done == [clips[1].name] and len(report.reused) == 10
    assert clips[0].name not in store.names() and store.record(clips[1].name).n_frames == 100
    assert len(list((tmp_path / "store").glob("*.safetensors"))) == 1


def test_clips_are_split_over_shards_of_bounded_size(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(feature_store, "MAX_SHARD_CLIPS", 5)
    extract(clips, tmp_path / "store", SETTINGS, make_extractor=make_toy)
    assert len(list((tmp_path / "store").glob("features_*.safetensors"))) == 3
    store = FeatureStore.open(tmp_path / "store")
    assert store.names() == [clip.name for clip in clips] and store.read(clips[-1].name)["audio"].size > 2000


def test_other_settings_are_refused_by_name_unless_overwritten(tmp_path, clips):
    extract(clips, tmp_path / "store", SETTINGS, make_extractor=make_toy)
    other = SETTINGS.model_copy(update={"encoder": "units", "f0_max_hz": 800.0})
    with pytest.raises(
        SvcError, match=r"encoder is 'toy', wanted 'units', f0_max_hz is 1100.0.*overwrite=True"
    ):
        extract(clips, tmp_path / "store", other, make_extractor=make_toy)
    assert len(extract(clips, tmp_path / "store", other, make_extractor=make_toy, overwrite=True).done) == 12
    assert FeatureStore.open(tmp_path / "store", other).settings.encoder == "units"


def test_a_bad_clip_is_listed_with_its_reason_and_the_rest_is_extracted(tmp_path):
    write_clips(tmp_path / "clips", 4)
    soundfile.write(tmp_path / "clips/ada/bad.wav", np.zeros(4000), RATE_HZ)
    soundfile.write(tmp_path / "clips/bob/blip.wav", np.zeros(5 * HOP), RATE_HZ)
    report = extract(scan_clips(tmp_path / "clips"), tmp_path / "store", SETTINGS, make_extractor=make_toy)
    reasons = {clip.name: reason for clip, reason in report.skipped}
    assert list(reasons) == ["ada/bad.wav", "bob/blip.wav"] and reasons["ada/bad.wav"] == "no sound in it"
    assert "0.05 s, shorter than the 0.10 s" in reasons["bob/blip.wav"]
    assert len(report.done) == len(FeatureStore.open(tmp_path / "store")) == 4


def test_when_every_clip_is_bad_the_error_lists_the_reasons(tmp_path):
    (tmp_path / "clips/ada").mkdir(parents=True)
    soundfile.write(tmp_path / "clips/ada/bad.wav", np.zeros(4000), RATE_HZ)
    with pytest.raises(SvcError, match="none of the 1 clips.*ada/bad.wav: no sound in it"):
        extract(scan_clips(tmp_path / "clips"), tmp_path / "store", SETTINGS, make_extractor=make_toy)


def test_two_jobs_make_the_same_bytes_as_one_with_one_extractor_per_worker(tmp_path, clips):
    extract(clips, tmp_path / "one", SETTINGS, make_extractor=make_toy)
    diary = tmp_path / "diary"
    extract(
        clips,
        tmp_path / "two",
        SETTINGS,
        make_extractor=partial(make_toy, diary=diary, pause_s=0.02),
        n_jobs=2,
    )
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")
    lines = diary.read_text().splitlines()
    assert 1 <= sum("built" in line for line in lines) <= 2
    assert len(lines) == len(set(lines)), "each worker sets up each speaker once"


def test_a_missing_network_is_an_error_of_the_run_not_of_each_clip(tmp_path, clips):
    with pytest.raises(SvcError, match="put the file there"):
        extract(clips, tmp_path / "store", SETTINGS, make_extractor=refuse)


SLOW_EXTRACTION = """
import sys; sys.path.insert(0, {repository!r})
from functools import partial
from pathlib import Path
from tests.toys.toy_features import SETTINGS, make_toy
from svcnb.data.extraction import extract, scan_clips
extract(scan_clips(Path({clips!r})), {store!r}, SETTINGS, make_extractor=partial(make_toy, pause_s=0.03))
"""


def test_killed_while_extracting_then_resumed_gives_the_bytes_of_a_full_run(tmp_path):
    clips = write_clips(tmp_path / "clips", 40)
    store = tmp_path / "store"
    script = SLOW_EXTRACTION.format(repository=str(PROJECT), clips=str(tmp_path / "clips"), store=str(store))
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list(store.glob("part_*.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert 16 <= len(FeatureStore.open(store, SETTINGS)) < 40
    (store / "features_000.partial").write_bytes(b"half a shard")
    report = extract(clips, store, SETTINGS, make_extractor=make_toy)
    assert len(report.reused) >= 16 and len(report.done) + len(report.reused) == 40
    extract(clips, tmp_path / "unbroken", SETTINGS, make_extractor=make_toy)
    assert bytes_of(store) == bytes_of(tmp_path / "unbroken")


@pytest.mark.parametrize("step", ["write index", "drop parts"])
def test_killed_while_merging_then_resumed_gives_the_bytes_of_a_full_run(tmp_path, clips, monkeypatch, step):
    extract(clips, tmp_path / "unbroken", SETTINGS, make_extractor=make_toy)
    extract(clips[:6], tmp_path / "store", SETTINGS, make_extractor=make_toy)
    with monkeypatch.context() as patch:
        if step == "write index":
            patch.setattr(feature_store, "write_json", die)
        else:
            patch.setattr(Path, "unlink", die)
        with pytest.raises(Killed):
            extract(clips, tmp_path / "store", SETTINGS, make_extractor=make_toy)
    assert len(FeatureStore.open(tmp_path / "store")) == 12
    assert len(extract(clips, tmp_path / "store", SETTINGS, make_extractor=make_toy).reused) == 12
    assert bytes_of(tmp_path / "store") == bytes_of(tmp_path / "unbroken")


class Killed(BaseException):
    """Simulates a kill: nothing catches it."""


def die(*_args, **_options) -> None:
    raise Killed


def test_errors_for_an_empty_folder_or_a_damaged_store_name_the_fix(tmp_path, clips):
    with pytest.raises(SvcError, match="holds no features"):
        FeatureStore.open(tmp_path)
    extract(clips, tmp_path / "store", SETTINGS, make_extractor=make_toy)
    next((tmp_path / "store").glob("features_*")).unlink()
    with pytest.raises(SvcError, match="is missing: extract again with overwrite"):
        FeatureStore.open(tmp_path / "store")


# ---------------------------------------------------------------------------------------------- split


def test_split_holds_out_a_twentieth_per_speaker_at_least_one_and_none_of_few():
    from svcnb.data.dataset import split_clips

    names = [f"ada/{i}" for i in range(60)] + [f"bob/{i}" for i in range(5)] + [f"eve/{i}" for i in range(4)]
    held_out = [name.split("/")[0] for name in split_clips(names).validation]
    assert (held_out.count("ada"), held_out.count("bob"), held_out.count("eve")) == (3, 1, 0)
    assert split_clips(names) == split_clips(names)
    assert set(split_clips(names[::-1]).validation) == set(split_clips(names).validation)
    assert split_clips(names, seed=1).validation != split_clips(names).validation


def test_enough_is_held_out_for_a_stable_mean_but_never_more_than_a_fifth():
    from svcnb.data.dataset import split_clips

    def held_out_s(n_clips: int, seconds: float) -> float:
        names = [f"ada/{i}" for i in range(n_clips)]
        return seconds * len(split_clips(names, durations_s=dict.fromkeys(names, seconds)).validation)

    assert held_out_s(60, 5.0) == 25.0  # five minutes
    assert held_out_s(60, 12.0) == 36.0  # a twentieth is enough
    assert held_out_s(30, 20.0) == 40.0  # two clips at least
    assert held_out_s(20, 3.0) == 12.0  # a minute: a fifth of it
    assert held_out_s(4, 10.0) == 0.0


def test_a_training_clip_never_becomes_a_validation_clip(tmp_path):
    from svcnb.data.dataset import load_split

    clips = write_clips(tmp_path / "clips", 10)
    extract(clips, tmp_path / "store", SETTINGS, make_extractor=make_toy)
    first = load_split(FeatureStore.open(tmp_path / "store"))
    more = write_clips(tmp_path / "clips", 60)
    extract(more, tmp_path / "store", SETTINGS, make_extractor=make_toy)
    second = load_split(FeatureStore.open(tmp_path / "store"))
    assert len(first.validation) == 2 and second.validation == first.validation
    assert set(first.training) <= set(second.training) and len(second.training) == 58


# ---------------------------------------------------------------------------------------------- items and batches


@pytest.fixture
def store(tmp_path, clips) -> FeatureStore:
    extract(clips, tmp_path / "store", SETTINGS, make_extractor=make_toy)
    return FeatureStore.open(tmp_path / "store")


def dataset_of(store: FeatureStore, **options):
    from svcnb.data.dataset import VoiceDataset

    return VoiceDataset(store, store.names(), {"ada": 0, "bob": 1}, **options)


def test_an_item_is_on_one_frame_grid_with_f0_gaps_filled(store):
    item = dataset_of(store)[0]
    assert item.content.shape == (3, 25) and item.f0_hz.shape == item.voiced.shape == item.volume.shape == (
        25,
    )
    assert (
        item.audio.shape == (25 * HOP,) and item.audio.abs().max() <= 1 and item.audio.dtype == torch.float32
    )
    assert item.voiced.tolist()[2:7] == [1, 0, 0, 0, 1] and torch.all(item.f0_hz == 100)


def test_items_of_unequal_length_are_padded_and_lengths_are_returned(store):
    from svcnb.data.batches import collate

    dataset = dataset_of(store)
    items = [dataset[0], dataset[1]]
    batch = collate(items)
    n = max(item.n_frames for item in items)
    assert (
        batch.lengths.tolist() == [items[0].n_frames, items[1].n_frames]
        and len(set(batch.lengths.tolist())) == 2
    )
    assert (
        batch.content.shape == (2, 3, n)
        and batch.audio.shape == (2, 1, n * HOP)
        and batch.speaker.shape == (2, 1)
    )
    short = int(torch.argmin(batch.lengths))
    end = items[short].n_frames
    assert not batch.content[short, :, end:].any() and not batch.audio[short, :, end * HOP :].any()
    assert not batch.voiced[short, end:].any() and not batch.volume[short, end:].any()
    assert torch.equal(batch.audio[short, 0, : end * HOP], items[short].audio)
    assert batch.to("cpu").names == batch.names


def test_crops_are_equal_for_the_same_epoch_and_differ_between_epochs(store):
    dataset = dataset_of(store, max_frames=12, seed=3)
    crops = [dataset[epoch, 0].audio for epoch in (0, 1, 2, 3, 1)]
    assert torch.equal(crops[1], crops[4]) and not all(torch.equal(crops[0], other) for other in crops[1:4])
    whole = dataset_of(store)[0]
    item = dataset[2, 0]
    starts = [s for s in range(14) if torch.equal(whole.audio[s * HOP : (s + 12) * HOP], item.audio)]
    assert len(starts) == 1 and torch.equal(whole.content[:, starts[0] : starts[0] + 12], item.content)


def test_augmentation_has_its_own_random_generator(store):
    def louder(item, rng):
        item.audio = item.audio * rng.uniform(1, 2)
        return item

    dataset = dataset_of(store, augment=louder)
    assert torch.equal(dataset[5, 1].audio, dataset[5, 1].audio)
    assert not torch.equal(dataset[5, 1].audio, dataset[6, 1].audio)


def test_batches_are_reshuffled_each_epoch_and_contain_every_clip_once():
    from svcnb.data.batches import BucketBatches

    batches = BucketBatches([100 + 10 * (i % 10) for i in range(23)], 4, seed=7)
    epochs = []
    for epoch in (1, 2, 1):
        batches.set_position(epoch)
        epochs.append([tuple(index for _, index in batch) for batch in batches])
    assert epochs[0] == epochs[2] and epochs[0] != epochs[1]
    assert {frozenset(b) for b in epochs[0]} != {frozenset(b) for b in epochs[1]}
    assert all(
        sorted(sum(epoch, ())) == list(range(23)) and len(epoch) == len(batches) == 6 for epoch in epochs
    )


def test_parts_of_the_batches_are_together_those_of_one_process_with_the_whole_batch_size():
    from svcnb.data.batches import BucketBatches, Part

    lengths = [100 + 7 * (i % 10) for i in range(23)]
    whole = BucketBatches(lengths, 8, seed=7)
    parts = [BucketBatches(lengths, 8, seed=7, part=Part(rank, 3)) for rank in range(3)]
    for epoch in (1, 2):
        for batches in (whole, *parts):
            batches.set_position(epoch, batch=1)
        assert [sorted(sum(own, [])) for own in zip(*parts, strict=True)] == [
            sorted(batch) for batch in whole
        ]
        assert all(len(batch) in (2, 3) for batches in parts for batch in batches), "8 or 7 clips among 3"


def test_a_last_batch_with_fewer_clips_than_parts_is_left_out_and_changes_with_the_epoch():
    from svcnb.data.batches import BucketBatches, Part

    batches = BucketBatches(range(100, 110), 4, seed=0, part=Part(1, 3))  # 4, 4 and 2 clips
    left_out = set()
    for epoch in range(6):
        batches.set_position(epoch)
        assert len(batches) == len(list(batches)) == 2
        whole = BucketBatches(range(100, 110), 4, seed=0)
        whole.set_position(epoch)
        left_out |= {frozenset(index for _, index in batch) for batch in whole if len(batch) == 2}
    assert len(left_out) > 1


def test_more_parts_than_clips_are_refused(store):
    from svcnb.data.batches import Part, loader

    with pytest.raises(SvcError, match="13 processes cannot share 12 clips"):
        loader(dataset_of(store), 1, part=Part(0, 13))
    shared = loader(dataset_of(store), 4, part=Part(1, 5))
    assert shared.batch_size == 3 and [len(batch) for batch in shared] == [3], (
        "20 clips are not there: 12 among 5"
    )


def test_batches_group_clips_of_similar_length():
    from svcnb.data.batches import BucketBatches

    rng = np.random.default_rng(0)
    lengths = rng.integers(100, 800, 200)
    kept = [lengths[[i for _, i in batch]] for batch in BucketBatches(lengths, 8, seed=0)]
    padded = sum(len(batch) * batch.max() for batch in kept) / lengths.sum()
    assert padded < 1.15  # 1.5 without buckets


def test_a_loader_resumed_mid_epoch_gives_the_rest_of_that_epoch(store):
    from svcnb.data.batches import loader

    whole = loader(dataset_of(store, max_frames=12), 5, seed=1)
    whole.set_position(4, 0)
    expected = list(whole)
    resumed = loader(dataset_of(store, max_frames=12), 5, seed=1)
    resumed.set_position(4, 2)
    rest = list(resumed)
    assert len(expected) == 3 and len(rest) == 1
    assert rest[0].names == expected[2].names and torch.equal(rest[0].audio, expected[2].audio)


def test_workers_and_in_memory_data_give_the_same_batches(store):
    from svcnb.data.batches import loader

    plain, processes = (loader(dataset_of(store), 2, n_workers=n) for n in (0, 1))
    memory = loader(dataset_of(store, in_memory=True), 2)
    for batches in zip(plain, processes, memory, strict=True):
        assert batches[0].names == batches[1].names == batches[2].names
        assert torch.equal(batches[0].audio, batches[1].audio) and torch.equal(
            batches[0].audio, batches[2].audio
        )
    assert len(list(memory)) == 6


def test_a_batch_larger_than_the_data_is_reduced_with_a_warning(store, caplog):
    from svcnb.data.batches import loader

    with caplog.at_level(logging.WARNING):
        reduced = loader(dataset_of(store), 50)
    assert "batch_size 50 is more than the 12 clips" in caplog.text
    assert [len(batch) for batch in reduced] == [12]


def test_a_speaker_without_an_id_is_named(store):
    from svcnb.data.dataset import VoiceDataset

    with pytest.raises(SvcError, match="speakers bob have features but no id"):
        VoiceDataset(store, store.names(), {"ada": 0})


def test_importing_touches_no_file_no_thread_count_and_no_heavy_library(tmp_path):
    script = (
        "import json, os, sys, torch; before = torch.get_num_threads(), torch.get_rng_state().sum().item(), dict(os.environ)\n"
        "import svcnb.data.dataset, svcnb.data.extraction, svcnb.training.loop\n"
        "assert before == (torch.get_num_threads(), torch.get_rng_state().sum().item(), dict(os.environ))\n"
        "print(json.dumps([name for name in ('joblib', 'accelerate', 'librosa', 'transformers') if name in sys.modules]))"
    )
    env = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [] and list(tmp_path.iterdir()) == []


def test_an_unchanged_split_is_not_written_again(tmp_path: Path) -> None:
    """Processes that train together read it at the same time."""
    from svcnb.data.dataset import load_split

    extract(write_clips(tmp_path / "clips", 10), tmp_path / "store", SETTINGS, make_extractor=make_toy)
    store = FeatureStore.open(tmp_path / "store")
    load_split(store)
    written = (store.folder / "split.json").stat()
    load_split(store)
    again = (store.folder / "split.json").stat()
    assert (again.st_ino, again.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
