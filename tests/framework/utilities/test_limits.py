import os
import socket

import pytest
import torch

from framework.utilities.limits import check_size, max_bytes, memory_foreseen, open_file


def test_limit_is_2_gib_or_what_the_variable_says(monkeypatch):
    monkeypatch.delenv("TRIMTAB_MAX_GIB", raising=False)
    assert max_bytes() == 2**31
    monkeypatch.setenv("TRIMTAB_MAX_GIB", "0.5")
    assert max_bytes() == 2**29
    check_size("a.gz", 2**29)
    with pytest.raises(
        ValueError,
        match=r"^a.gz: its content would take 1 GiB of memory, above the limit of 0.5 GiB: set "
        r"TRIMTAB_MAX_GIB to allow more\.$",
    ):
        check_size("a.gz", 2**30)


@pytest.mark.parametrize("text", ["two", "0", "-1", "nan", "inf"])
def test_refuses_a_variable_that_is_no_limit(monkeypatch, text):
    monkeypatch.setenv("TRIMTAB_MAX_GIB", text)
    with pytest.raises(ValueError, match=f"must be a positive number of GiB, got '{text}'"):
        max_bytes()


@pytest.mark.parametrize("size", [float("nan"), float("inf"), 10**40])
def test_refuses_sizes_that_are_none(size):
    with pytest.raises(ValueError, match="above the limit"):
        check_size("a.gz", size)


def test_names_the_file_where_memory_ends():
    for take in (lambda: bytearray(2**62), lambda: torch.empty(2**62, dtype=torch.uint8)):
        with (
            pytest.raises(ValueError, match=r"^a.npy: .* too little memory"),
            memory_foreseen("a.npy"),
        ):
            take()
    with pytest.raises(RuntimeError, match="else"), memory_foreseen("a.npy"):
        raise RuntimeError("something else")


def test_opens_regular_files_only(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"content")
    with open_file(tmp_path / "file") as file:
        assert file.read(1) == b"c"
        assert file.read(1 << 50) == b"ontent", "no memory is taken for what is not there"
        file.seek(0)
        assert file.read() == file.read(-1) + b"content"
    with pytest.raises(FileNotFoundError, match="none"):
        open_file(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        for path in (tmp_path, "pipe", "socket", "/dev/zero"):
            with pytest.raises(ValueError, match="is no regular file"):
                open_file(path)
