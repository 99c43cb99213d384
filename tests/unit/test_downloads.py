"""Weights are found under the families' names; downloads are checked and leave nothing broken behind."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from svcnb import SvcError, downloads
from svcnb.downloads import WEIGHTS, Weights, WeightsMissing, fetch, find_weights, has_weights


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and its address on this machine."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def add_row(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    row = {"name": "toy", "file_name": "toy.pt", "used_for": "a test", "source": "this machine", "licence": "MIT", **changes}
    monkeypatch.setitem(WEIGHTS, "toy", Weights(**row))


def test_names_are_keys_and_checksums_are_whole() -> None:
    for name, row in WEIGHTS.items():
        assert row.name == name
        assert row.sha256 is None or len(row.sha256) == 64
        assert row.url is None or row.url.startswith("https://")


def test_a_file_under_another_familys_name_is_found(tmp_path: Path) -> None:
    assert not has_weights("contentvec", tmp_path)
    (tmp_path / "hubert_base.pt").touch()
    assert find_weights("contentvec", tmp_path) == tmp_path / "hubert_base.pt"


def test_absent_weights_are_answered_with_the_file_and_its_source(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"rmvpe\.pt, which is not there\. Source: yxlllc/RMVPE.*fetch\('rmvpe'\)"):
        find_weights("rmvpe", tmp_path)
    with pytest.raises(WeightsMissing, match="nsf_hifigan.model"):
        fetch("nsf-hifigan", tmp_path)
    with pytest.raises(SvcError, match="contentvec"):
        find_weights("no such", tmp_path)


def test_a_first_fetch_records_the_checksum_and_a_later_one_compares(tmp_path, served, monkeypatch) -> None:
    folder, address = served
    (folder / "a.pt").write_bytes(b"first")
    add_row(monkeypatch, url=f"{address}/a.pt")
    path = fetch("toy", tmp_path / "pretrain")
    assert path.read_bytes() == b"first"
    recorded = json.loads((tmp_path / "pretrain" / downloads.CHECKSUMS_NAME).read_text())
    assert recorded == {"toy.pt": hashlib.sha256(b"first").hexdigest()}

    path.unlink()
    (folder / "a.pt").write_bytes(b"changed")
    with pytest.raises(WeightsMissing, match="hash"):
        fetch("toy", tmp_path / "pretrain")
    assert [p.name for p in (tmp_path / "pretrain").iterdir()] == [downloads.CHECKSUMS_NAME]


def test_a_file_that_is_there_is_not_fetched_again(tmp_path, monkeypatch) -> None:
    add_row(monkeypatch, url="http://127.0.0.1:9/unreachable.pt")
    (tmp_path / "toy.pt").write_bytes(b"mine")
    assert fetch("toy", tmp_path).read_bytes() == b"mine"


def test_a_failed_download_is_one_clear_error(tmp_path, served, monkeypatch) -> None:
    add_row(monkeypatch, url=f"{served[1]}/absent.pt")
    with pytest.raises(WeightsMissing, match=r"toy\.pt was not downloaded from .*absent\.pt: .*404"):
        fetch("toy", tmp_path / "pretrain")
    assert not (tmp_path / "pretrain" / "toy.pt").exists()


def test_one_member_of_an_archive_is_put_in_place_and_the_rest_removed(tmp_path, served, monkeypatch) -> None:
    folder, address = served
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("model.pt", b"weights")
        zipped.writestr("readme.txt", b"text")
    (folder / "a.zip").write_bytes(archive.getvalue())
    add_row(monkeypatch, url=f"{address}/a.zip", member="model.pt")
    path = fetch("toy", tmp_path / "pretrain")
    assert path.read_bytes() == b"weights"
    assert {p.name for p in (tmp_path / "pretrain").iterdir()} == {"toy.pt", downloads.CHECKSUMS_NAME}
