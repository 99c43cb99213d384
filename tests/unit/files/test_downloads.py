"""Weights are found under the families' names; downloads are checked and leave nothing broken behind."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import threading
import types
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download

from svcnb import SvcError
from svcnb.files import downloads, transfer
from svcnb.files.downloads import WeightsMissing, fetch, find_weights, has_weights, weights_for
from svcnb.files.pretrained_table import WEIGHTS, Weights
from svcnb.files.transfer import TransferError, download


class Host(SimpleHTTPRequestHandler):
    """Serves a folder; gives parts, names checksums, and breaks off after some bytes, where the server's attributes say so."""

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(None)

    def do_GET(self) -> None:
        self.answer(self.server.break_after_bytes)

    def answer(self, n_bytes: int | None) -> None:
        """Headers, and at most `n_bytes` of the content; None: a question about it, which is not counted."""
        path = Path(self.translate_path(self.path))
        if path.name in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[path.name])
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if not path.is_file():
            return self.send_error(404)
        content, asked = path.read_bytes(), self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.gives_parts else 0
        if n_bytes is not None:
            self.server.starts.append(start)
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{self.server.etag or hashlib.sha256(content).hexdigest()[:8]}"')
        self.send_header(
            "Content-Type", "text/html" if path.suffix == ".html" else "application/octet-stream"
        )
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start:][: n_bytes or 0])
        self.close_connection = True


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A server on this machine: `folder` and `address`; `starts` collects the first byte of every answer."""
    monkeypatch.setattr(
        file_download, "time", types.SimpleNamespace(sleep=lambda _: None)
    )  # between two tries: 1 s
    monkeypatch.setattr(
        constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16
    )  # what is kept is a multiple of it; else 10 MB
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Host, directory=str(tmp_path / "served")))
    server.folder, server.address = tmp_path / "served", f"http://127.0.0.1:{server.server_port}"
    server.gives_parts, server.break_after_bytes, server.starts, server.etag, server.moved = (
        True,
        1 << 30,
        [],
        "",
        {},
    )
    server.folder.mkdir()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def add_row(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    row = {
        "name": "toy",
        "file_name": "toy.pt",
        "used_for": "a test",
        "source": "this machine",
        "licence": "MIT",
        **changes,
    }
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


def test_absent_weights_are_answered_with_the_file_its_place_and_its_source(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsMissing,
        match=r"rmvpe\.pt is not there, needed for: f0 method rmvpe\. Source: yxlllc/RMVPE.*weights rmvpe --fetch",
    ):
        find_weights("rmvpe", tmp_path)
    with pytest.raises(WeightsMissing, match="put nsf_hifigan_20221211.zip into .* and run the same"):
        find_weights("nsf-hifigan", tmp_path)
    with pytest.raises(
        WeightsMissing, match=rf"get https://.*/medium.pt elsewhere and save it as {tmp_path}/medium.pt"
    ):
        find_weights("whisper-medium", tmp_path)
    with pytest.raises(SvcError, match="contentvec"):
        find_weights("no such", tmp_path)


def test_weights_with_a_companion_are_there_only_with_it(tmp_path: Path) -> None:
    (tmp_path / "nsf_hifigan").mkdir()
    (tmp_path / "nsf_hifigan" / "model").touch()
    assert not has_weights("nsf-hifigan", tmp_path)
    (tmp_path / "nsf_hifigan" / "config.json").touch()
    assert has_weights("nsf-hifigan", tmp_path)


def test_choices_name_the_rows_they_need_and_nothing_else() -> None:
    chosen = weights_for(["vec256l9", "rmvpe", "", "fcpe", "enhance", "shallow_diffusion"])
    assert [row.name for row in chosen] == ["contentvec", "rmvpe", "nsf-hifigan"]
    assert weights_for(["auto", "dio"]) == []
    with pytest.raises(
        SvcError, match="'vec900' needs no weights that svcnb knows: choose among .*vec768l12"
    ):
        weights_for(["vec900"])


def test_every_base_model_of_rvc_is_a_choice_under_the_name_a_training_looks_for() -> None:
    from svcnb.models.rvc.config import Config
    from svcnb.models.rvc.train import base_names

    for version, rates in {"v1": (32000, 40000, 48000), "v2": (32000, 40000, 48000)}.items():
        for rate_hz in rates:
            for f0 in (True, False):
                choice = f"base_rvc_{version}_{rate_hz // 1000}k" + ("" if f0 else "_no_f0")
                expected = base_names(Config.full(version, rate_hz, f0=f0))
                assert [row.file_name for row in weights_for([choice])] == [
                    path.as_posix() for path in expected
                ]


def test_every_encoder_and_every_f0_method_is_a_choice() -> None:
    from svcnb.features.content.encoders import ENCODERS
    from svcnb.features.pitch.estimator import METHODS

    for row in ENCODERS.values():
        assert row.weights in [found.name for found in weights_for([row.name])], (
            f"{row.name} is not in needed_for"
        )
    for method in METHODS:
        weights_for([method])


def test_a_first_fetch_records_the_checksum_and_a_later_one_compares(tmp_path, host, monkeypatch) -> None:
    (host.folder / "a.pt").write_bytes(b"first")
    add_row(monkeypatch, url=f"{host.address}/a.pt")
    fetched = fetch("toy", tmp_path / "pretrain")
    assert fetched.path.read_bytes() == b"first" and fetched.mirror in host.address
    assert "recorded now" in fetched.verified
    recorded = json.loads((tmp_path / "pretrain" / downloads.CHECKSUMS_NAME).read_text())
    assert recorded == {"toy.pt": hashlib.sha256(b"first").hexdigest()}
    assert "equal to the checksum of the first use" in fetch("toy", tmp_path / "pretrain").verified

    fetched.path.unlink()
    (host.folder / "a.pt").write_bytes(b"changed")
    with pytest.raises(WeightsMissing, match="another file than expected"):
        fetch("toy", tmp_path / "pretrain")
    assert [p.name for p in (tmp_path / "pretrain").iterdir()] == [downloads.CHECKSUMS_NAME]


def test_a_published_checksum_is_compared_and_the_next_mirror_is_tried(tmp_path, host, monkeypatch) -> None:
    (host.folder / "bad.pt").write_bytes(b"tampered")
    (host.folder / "good.pt").write_bytes(b"right")
    checksum = hashlib.sha256(b"right").hexdigest()
    mirrors = (f"{host.address}/page.html", f"{host.address}/good.pt")
    (host.folder / "page.html").write_text("<html>log in</html>")
    add_row(monkeypatch, url=f"{host.address}/bad.pt", mirrors=mirrors, sha256=checksum)
    fetched = fetch("toy", tmp_path / "pretrain")
    assert fetched.path.read_bytes() == b"right" and fetched.sha256 == checksum
    assert fetched.verified == "equal to the published checksum"

    add_row(monkeypatch, url=f"{host.address}/bad.pt", mirrors=mirrors[:1], sha256=checksum)
    with pytest.raises(
        WeightsMissing, match="not the published one.*web page.*get .*bad.pt elsewhere and save it as"
    ):
        fetch("toy", tmp_path / "elsewhere")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_mirror_of_hugging_face_is_asked_first(tmp_path, host, monkeypatch) -> None:
    (host.folder / "a.pt").write_bytes(b"mirrored")
    add_row(monkeypatch, url=f"{downloads.HUGGING_FACE}/a.pt")
    monkeypatch.setenv(downloads.HUGGING_FACE_VARIABLE, host.address + "/")
    assert fetch("toy", tmp_path / "pretrain").mirror == host.address.removeprefix("http://")


def test_a_file_that_is_there_is_not_fetched_again_but_compared(tmp_path, monkeypatch) -> None:
    add_row(monkeypatch, url="http://127.0.0.1:9/unreachable.pt")
    (tmp_path / "toy.pt").write_bytes(b"mine")
    assert fetch("toy", tmp_path).path.read_bytes() == b"mine"
    (tmp_path / "toy.pt").write_bytes(b"damaged")
    with pytest.raises(WeightsMissing, match="another file than expected"):
        fetch("toy", tmp_path)
    assert (tmp_path / "toy.pt").exists()


def test_a_failed_download_is_one_clear_error(tmp_path, host, monkeypatch) -> None:
    add_row(monkeypatch, url=f"{host.address}/absent.pt")
    with pytest.raises(WeightsMissing, match=r"absent\.pt: 404.*toy\.pt is not there, needed for: a test"):
        fetch("toy", tmp_path / "pretrain")
    assert not list((tmp_path / "pretrain").iterdir())


def test_offline_the_error_names_the_file_and_its_path(tmp_path, monkeypatch) -> None:
    add_row(monkeypatch, url="http://127.0.0.1:9/toy.pt")
    with pytest.raises(WeightsMissing, match=r"no answer from 127.*elsewhere and save it as .*toy\.pt"):
        fetch("toy", tmp_path)


# ------------------------------------------------------------------------------------------------ broken downloads

CONTENT = bytes(range(256)) * 2000  # half a megabyte


def test_a_connection_that_breaks_off_is_resumed(tmp_path, host) -> None:
    (host.folder / "a.pt").write_bytes(CONTENT)
    host.break_after_bytes = 200_000
    assert download(f"{host.address}/a.pt", tmp_path / "a.pt").kept_bytes == 0
    assert (tmp_path / "a.pt").read_bytes() == CONTENT
    assert host.starts[0] == 0 and len(host.starts) > 2 and all(host.starts[1:])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pt", "served"]


def test_a_later_call_resumes_what_an_interrupted_one_left(tmp_path, host, monkeypatch) -> None:
    (host.folder / "a.pt").write_bytes(CONTENT)
    host.break_after_bytes = 200_000

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(file_download, "time", types.SimpleNamespace(sleep=interrupt))
        download(f"{host.address}/a.pt", tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()
    host.break_after_bytes = 1 << 30
    kept_bytes = download(f"{host.address}/a.pt", tmp_path / "a.pt").kept_bytes
    assert (tmp_path / "a.pt").read_bytes() == CONTENT
    assert 0 < kept_bytes <= 200_000 and host.starts == [0, kept_bytes]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pt", "served"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(tmp_path, host, monkeypatch) -> None:
    (host.folder / "a.pt").write_bytes(CONTENT)
    leave_a_part(host, tmp_path / "a.pt", monkeypatch)
    (host.folder / "a.pt").write_bytes(CONTENT[::-1] + b"longer")
    download(f"{host.address}/a.pt", tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == CONTENT[::-1] + b"longer"


def test_a_part_from_another_address_is_not_continued(tmp_path, host, monkeypatch) -> None:
    (host.folder / "a.pt").write_bytes(CONTENT)
    (host.folder / "b.pt").write_bytes(CONTENT[::-1])
    leave_a_part(host, tmp_path / "a.pt", monkeypatch)
    assert download(f"{host.address}/b.pt", tmp_path / "a.pt").kept_bytes == 0
    assert (tmp_path / "a.pt").read_bytes() == CONTENT[::-1]


def test_a_server_that_gives_no_parts_is_asked_for_the_whole(tmp_path, host, monkeypatch) -> None:
    (host.folder / "a.pt").write_bytes(CONTENT)
    leave_a_part(host, tmp_path / "a.pt", monkeypatch)
    host.gives_parts = False
    download(f"{host.address}/a.pt", tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == CONTENT


def test_a_connection_that_never_gets_further_is_given_up_and_the_part_kept(tmp_path, host) -> None:
    (host.folder / "a.pt").write_bytes(CONTENT)
    host.break_after_bytes = 0
    with pytest.raises(TransferError, match="a.pt"):
        download(f"{host.address}/a.pt", tmp_path / "a.pt")
    assert 2 <= len(host.starts) <= 10


def test_a_host_that_leads_to_another_one_is_followed_and_its_file_resumed(
    tmp_path, host, monkeypatch
) -> None:
    """As a release on GitHub: only the second address tells size and version."""
    (host.folder / "stored.bin").write_bytes(CONTENT)
    host.moved["a.pt"] = f"{host.address.replace('127.0.0.1', 'localhost')}/stored.bin"
    leave_a_part(host, tmp_path / "a.pt", monkeypatch, n_answers=2)
    assert download(f"{host.address}/a.pt", tmp_path / "a.pt").kept_bytes > 0
    assert (tmp_path / "a.pt").read_bytes() == CONTENT


def test_a_checksum_that_the_host_names_is_compared(tmp_path, host, monkeypatch) -> None:
    """Hugging Face's ETag of a large file is its sha256."""
    (host.folder / "a.pt").write_bytes(b"whole")
    add_row(monkeypatch, url=f"{host.address}/a.pt")
    host.etag = hashlib.sha256(b"whole").hexdigest()
    assert fetch("toy", tmp_path / "pretrain").verified.startswith(
        "equal to the checksum that the host names, recorded"
    )
    host.etag = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(WeightsMissing, match="is not the one that the host names"):
        fetch("toy", tmp_path / "elsewhere")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path, host, monkeypatch) -> None:
    (host.folder / "a.pt").write_bytes(CONTENT)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(TransferError, match="no room for a.pt"):
        download(f"{host.address}/a.pt", tmp_path / "a.pt")


def leave_a_part(
    host: ThreadingHTTPServer, path: Path, monkeypatch: pytest.MonkeyPatch, *, n_answers: int = 1
) -> None:
    """A download that broke off in the middle and was given up."""
    tries = iter([1] * n_answers)

    def no_more_after_one(self: Host, serve=Host.do_GET) -> None:
        if next(tries, None):
            serve(self)
        self.close_connection = True

    host.break_after_bytes = 200_000
    with monkeypatch.context() as patch, pytest.raises(TransferError, match="are kept"):
        patch.setattr(Host, "do_GET", no_more_after_one)
        download(f"{host.address}/{path.name}", path)
    host.break_after_bytes = 1 << 30
    assert [p.stat().st_size > 0 for p in path.parent.glob(f"{path.name}.*.part")] == [True]


# ------------------------------------------------------------------------------------------------------- archives


def zipped(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as written:
        for name, content in files.items():
            written.writestr(name, content)
    return archive.getvalue()


def test_one_member_of_an_archive_is_put_in_place_and_the_rest_removed(tmp_path, host, monkeypatch) -> None:
    (host.folder / "a.zip").write_bytes(zipped({"model.pt": b"weights", "readme.txt": b"text"}))
    add_row(monkeypatch, url=f"{host.address}/a.zip", member="model.pt")
    assert fetch("toy", tmp_path / "pretrain").path.read_bytes() == b"weights"
    assert {p.name for p in (tmp_path / "pretrain").iterdir()} == {"toy.pt", downloads.CHECKSUMS_NAME}


VOCODER = {
    "x/nsf_hifigan/model": b"weights",
    "x/nsf_hifigan/config.json": b"{}",
    "x/nsf_hifigan/NOTICE.txt": b"CC",
}


def test_the_vocoders_archive_gives_its_config_and_its_licence_too(tmp_path, host, monkeypatch) -> None:
    (host.folder / "nsf.zip").write_bytes(zipped(VOCODER | {"readme.md": b"text"}))
    row = WEIGHTS["nsf-hifigan"]
    monkeypatch.setitem(WEIGHTS, row.name, dataclasses.replace(row, url=f"{host.address}/nsf.zip"))
    fetched = fetch(row.name, tmp_path / "pretrain")
    assert fetched.path == find_weights(row.name, tmp_path / "pretrain")
    folder = tmp_path / "pretrain" / "nsf_hifigan"
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {Path(k).name: v for k, v in VOCODER.items()}


def test_an_archive_that_was_put_there_by_hand_is_unpacked_without_a_network(tmp_path, monkeypatch) -> None:
    row = WEIGHTS["nsf-hifigan"]
    monkeypatch.setitem(WEIGHTS, row.name, dataclasses.replace(row, url="http://127.0.0.1:9/nsf.zip"))
    (tmp_path / "nsf.zip").write_bytes(zipped(VOCODER))
    assert fetch(row.name, tmp_path).mirror == "nsf.zip"
    assert has_weights(row.name, tmp_path) and not (tmp_path / "nsf.zip").exists()


@pytest.mark.parametrize("name", ["../model", "/etc/model", "C:/model", "..\\model"])
def test_an_archive_that_would_write_elsewhere_is_refused_whole(
    tmp_path, host, monkeypatch, name: str
) -> None:
    (host.folder / "a.zip").write_bytes(zipped({"model.pt": b"weights", name: b"evil"}))
    add_row(monkeypatch, url=f"{host.address}/a.zip", member="model.pt")
    with pytest.raises(SvcError, match="outside its folder"):
        fetch("toy", tmp_path / "pretrain")
    assert not list((tmp_path / "pretrain").iterdir())
    assert not (tmp_path / "model").exists()


def test_another_archive_under_the_name_is_told(tmp_path, host, monkeypatch) -> None:
    (host.folder / "a.zip").write_bytes(zipped({"other.pt": b"weights"}))
    add_row(monkeypatch, url=f"{host.address}/a.zip", member="model.pt")
    with pytest.raises(WeightsMissing, match="holds 0 files called model.pt"):
        fetch("toy", tmp_path / "pretrain")
