"""cifar10, cifar100 and svhn: reading from folders, and failed downloads."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision.datasets as tv

from robust_eval.core import download
from robust_eval.core.errors import UserError
from robust_eval.data import load

LABELS = [3, 8, 3, 0]
ROWS = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)


def store(path: Path, content: object) -> str:
    """Write a pickle as in the CIFAR folders; return its MD5 sum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = pickle.dumps(content)
    path.write_bytes(data)
    return hashlib.md5(data).hexdigest()


def fake_cifar(monkeypatch: pytest.MonkeyPatch, root: Path, dataset: type, key: str) -> None:
    """A CIFAR folder of four images, with its MD5 sums patched into torchvision."""
    folder = root / dataset.base_folder
    names = {"batches.meta": "label_names", "meta": "fine_label_names"}
    for listed in ("train_list", "test_list"):
        sums = [
            [name, store(folder / name, {"data": ROWS, key: LABELS})] for name, _ in getattr(dataset, listed)
        ]
        monkeypatch.setattr(dataset, listed, sums)
    meta = dataset.meta["filename"]
    classes = [f"class {index}" for index in range(10)]
    md5 = store(folder / meta, {names[meta]: classes})
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5})


@pytest.mark.parametrize(("name", "key"), [("cifar10", "labels"), ("cifar100", "fine_labels")])
@pytest.mark.parametrize("subfolder", ["", "own"])
def test_cifar_is_read_from_its_usual_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, key: str, subfolder: str
) -> None:
    fake_cifar(monkeypatch, tmp_path / (name if subfolder else ""), getattr(tv, name.upper()), key)
    images = load(name, root=tmp_path)
    assert np.array_equal(images.x_NHWC, ROWS.reshape(4, 3, 32, 32).transpose(0, 2, 3, 1))
    assert images.y_N.tolist() == LABELS
    assert images.class_names[3] == "class 3"


def test_only_the_files_of_a_split_are_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_cifar(monkeypatch, tmp_path, tv.CIFAR10, "labels")
    (tmp_path / tv.CIFAR10.base_folder / "data_batch_3").unlink()
    assert load("cifar10", root=tmp_path).n == 4
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(UserError, match="could not be downloaded"):
        load("cifar10", root=tmp_path, split="train")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"echo ran > '{self.target}'",)


@pytest.mark.parametrize("known", [True, False])
def test_code_in_the_pickles_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, known: bool) -> None:
    """Neither in a file with the MD5 sum of the archive's nor in another one."""
    fake_cifar(monkeypatch, tmp_path, tv.CIFAR10, "labels")
    trace = tmp_path / "ran"
    md5 = store(tmp_path / tv.CIFAR10.base_folder / "test_batch", {"data": ROWS, "labels": Payload(trace)})
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    if known:
        monkeypatch.setattr(tv.CIFAR10, "test_list", [["test_batch", md5]])
    message = "it imports posix.system, which could run code" if known else "could not be downloaded"
    with pytest.raises(UserError, match=message):
        load("cifar10", root=tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize("subfolder", ["", "svhn"])
def test_svhn_is_read_from_its_mat_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, subfolder: str
) -> None:
    path = tmp_path / subfolder / "test_32x32.mat"
    path.parent.mkdir(exist_ok=True)
    x_HWCN = ROWS.reshape(4, 32, 32, 3).transpose(1, 2, 3, 0)
    scipy.io.savemat(path, {"X": x_HWCN, "y": np.array([[3], [8], [10], [1]])})
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(tv.SVHN, "split_list", {"test": ["http://unused", path.name, md5]})
    images = load("svhn", root=tmp_path)
    assert np.array_equal(images.x_NHWC, ROWS.reshape(4, 32, 32, 3))
    assert images.y_N.tolist() == [3, 8, 0, 1]


def no_network(*_: object, **__: object) -> None:
    raise socket.gaierror(-2, "Name or service not known")


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("cifar10", "Put the folder cifar-10-batches-py there"),
        ("cifar100", "Put the folder cifar-100-python there"),
        ("svhn", "Put test_32x32.mat there"),
        ("mnist", r"Put the four \*-ubyte.gz files there"),
    ],
)
def test_without_files_or_network_the_message_names_files_and_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, needs: str
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    message = rf"{name} is not in {tmp_path}.* could not be downloaded \(Name or service not known\). {needs}"
    with pytest.raises(UserError, match=message) as error:
        load(name, root=tmp_path)
    assert "point --data-root at a folder that has it" in str(error.value)


class Stalling(BaseHTTPRequestHandler):
    """Answers HEAD; on GET announces 1,000 bytes, sends ten and then nothing until the end of the test."""

    test_ended = threading.Event()

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"0123456789")
        self.wfile.flush()
        self.test_ended.wait()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stalling_server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Stalling)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Stalling.test_ended.clear()
    yield f"http://127.0.0.1:{server.server_port}/"
    Stalling.test_ended.set()
    server.shutdown()
    server.server_close()


def test_a_stalled_download_is_abandoned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stalling_server: str
) -> None:
    monkeypatch.setattr(download, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(tv.CIFAR10, "url", stalling_server + "cifar-10-python.tar.gz")
    before = socket.getdefaulttimeout()
    with pytest.raises(UserError, match=r"could not be downloaded \(timed out\)"):
        load("cifar10", root=tmp_path)
    assert socket.getdefaulttimeout() == before
