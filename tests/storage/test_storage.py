"""Files that are written completely or not at all, and what is no plain file."""

import os
import socket
import stat
import subprocess
import sys
import threading

import pytest
from etils.epath import gpath
from folder_bucket import FolderBucket

from dots_jax.storage import atomic_path, atomic_write, write_text


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "out"
    with atomic_write(path) as file:
        file.write("é\n")
        assert not path.exists()
    assert path.read_bytes() == "é\n".encode()
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write("half")
        raise ZeroDivisionError
    assert path.read_text() == "é\n" and os.listdir(tmp_path) == ["out"]
    with atomic_write(str(path), "wb") as file:
        file.write(b"\xff")
    assert path.read_bytes() == b"\xff"


def test_the_mode_stays(tmp_path):
    path = tmp_path / "out"
    mask = os.umask(0o027)
    try:
        write_text(path, "new")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640  # as of any new file
        path.chmod(0o604)
        write_text(path, "newer")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604 and path.read_text() == "newer"


def test_links_are_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/out")
    (tmp_path / "second").symlink_to("link")
    for text in ("a", "b"):  # the target is missing, then it exists
        write_text(tmp_path / "second", text)
        assert (tmp_path / "there" / "out").read_text() == text
    assert (tmp_path / "link").is_symlink() and (tmp_path / "second").is_symlink()
    assert os.listdir(tmp_path / "there") == ["out"]


def test_a_pipe_is_written_through(tmp_path):
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    write_text(path, "text")
    reader.join()
    assert read == ["text"] and stat.S_ISFIFO(path.stat().st_mode)


def test_a_device_is_written_through(tmp_path):
    (tmp_path / "link").symlink_to("/dev/null")
    for path in ("/dev/null", tmp_path / "link"):
        write_text(path, "text")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode) and (tmp_path / "link").is_symlink()


@pytest.mark.subprocess
@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_the_standard_output_is_written_through(tmp_path, path):
    """As a pipe, as a socket, and as a file that the shell appends to."""
    code = f"from dots_jax.storage import write_text; write_text({path!r}, 'text\\n')"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout == b"text\n"
    ours, theirs = socket.socketpair()
    subprocess.run([sys.executable, "-c", code], stdout=theirs, check=True)
    assert ours.recv(100) == b"text\n"
    (tmp_path / "log").write_text("before\n")
    with open(tmp_path / "log", "a") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "before\ntext\n" and os.listdir(tmp_path) == ["log"]


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path, "text")
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "none" / "out", "text")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="symbolic links"):
        write_text(tmp_path / "circle", "text")


def test_an_object_of_a_bucket_appears_when_it_is_complete(tmp_path, monkeypatch):
    fake = FolderBucket(tmp_path)
    monkeypatch.setattr(gpath._GPath, "_backend", property(lambda self: fake))
    with atomic_write("gs://bucket/out") as file:
        file.write("é")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out").read_bytes() == "é".encode()
    with pytest.raises(ZeroDivisionError), atomic_write("gs://bucket/out") as file:
        file.write("half")
        raise ZeroDivisionError
    assert (tmp_path / "out").read_text() == "é" and os.listdir(tmp_path) == ["out"]


def test_a_library_that_writes_by_name(tmp_path):
    with atomic_path(tmp_path / "out") as first, atomic_path(tmp_path / "out") as second:
        for path, text in ((first, "1"), (second, "2")):
            with open(path, "w") as file:
                file.write(text)
    assert (tmp_path / "out").read_text() == "1" and os.listdir(tmp_path) == ["out"]
