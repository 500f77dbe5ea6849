"""Wrong credentials end a service at once, with exit code 2 and the file's or the flag's name."""

import argparse
import pathlib

import pytest

from penstock.process import flags, security
from penstock.testing.certificates import issue


def parsed(*words: object) -> argparse.Namespace:
    return flags("test", "tests").parse_args([str(word) for word in words])


def test_plain_text_beyond_loopback_is_refused_unless_it_is_wanted() -> None:
    for listen in ("0.0.0.0:7000", "[::]:7000", "10.0.0.1:0", "gpu-7:7000"):
        with pytest.raises(ValueError, match=r"--listen .*--insecure"):
            security(parsed("--listen", listen))
        assert security(parsed("--listen", listen, "--insecure")).token is None
    for listen in ("127.0.0.1:0", "[::1]:0", "localhost:1", "unix:/tmp/x"):
        assert not security(parsed("--listen", listen)).tls


def test_half_a_pair_and_wrong_files_are_named(tmp_path: pathlib.Path) -> None:
    certificate, key = issue(tmp_path, "a")
    empty = tmp_path / "empty"
    empty.write_text("")
    identity = tmp_path / "learner.token"
    identity.write_text("learner:secret")
    assert security(parsed("--tls-certificate", certificate, "--tls-key", key, "--tls-ca", certificate)).tls
    for words, named in (
        (("--tls-certificate", certificate), "belong together"),
        (("--tls-certificate", key, "--tls-key", key), "no certificate and its key"),
        (("--tls-certificate", certificate, "--tls-key", certificate), "no certificate and its key"),
        (("--tls-ca", empty), f"{empty} is no certificate"),
        (("--tls-ca", key), f"{key} is no certificate"),
        (("--token-file", empty), "the token is empty"),
        (("--tls-key", key), f"{key}: certificate and key belong together"),
        (("--callers-file", key), f"{key}: "),
        (("--token-file", identity), "the learner must know its callers"),
    ):
        with pytest.raises(ValueError, match=named):
            security(parsed(*words))
    with pytest.raises(OSError, match="none"):
        security(parsed("--tls-ca", tmp_path / "none"))
