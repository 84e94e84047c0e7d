"""`env` is opened and configured, and never shows a secret."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
import trio

from pyinterceptor import KV, Headers, PolicyError, R2Bucket, Secret
from pyinterceptor.bindings.env import Env, configured, open_env, settings_of

TOKEN = "s3cret'\n-token"


def opened(bindings: dict[str, object], state: Path) -> Env:
    async def main() -> Env:
        async with open_env(bindings, state) as env:
            return env

    return trio.run(main)


def test_an_unknown_binding_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    env = opened({"kv": 1, "r2": 2}, tmp_path)
    assert (env.kv, env.r2) == (1, 2)
    with pytest.raises(AttributeError, match="unknown binding 'KV'; the app's bindings: kv, r2"):
        _ = env.KV


def test_a_plain_text_is_replaced_by_configuration() -> None:
    settings = settings_of({"PYINTERCEPTOR_BINDING_GREETING": "hi", "HOME": "/root"})
    assert configured({"GREETING": "hello", "COUNT": 3}, settings) == {"GREETING": "hi", "COUNT": 3}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("GREETINGS", "unknown binding; the app's bindings: COUNT, GREETING, TOKEN"),
        ("COUNT", "configure binding COUNT: a int can't be configured, only a resource or a str"),
        ("TOKEN", "configure binding TOKEN: a Secret can't be configured"),
    ],
)
def test_invalid_configuration_is_refused(name: str, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        configured({"GREETING": "hello", "COUNT": 3, "TOKEN": Secret("x")}, {name: "hi"})


@pytest.mark.parametrize("cls", [KV, R2Bucket, Secret])
def test_a_class_instead_of_an_instance_is_refused(cls: type) -> None:
    with pytest.raises(PolicyError, match=rf"binding IT: {cls.__name__} is a class; write {cls.__name__}\("):
        configured({"IT": cls}, {})


@pytest.mark.parametrize("value", [{"a": Secret("x")}, [KV()], ({"a": (1, [R2Bucket()])},)])
def test_a_resource_inside_another_value_is_refused(value: object) -> None:
    with pytest.raises(PolicyError, match="binding IT: it contains a resource or Secret"):
        configured({"IT": value}, {})
    assert configured({"IT": {"a": [1, "x"]}}, {}) == {"IT": {"a": [1, "x"]}}


def test_a_secret_is_read_when_the_app_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bindings: dict[str, object] = {"TOKEN": Secret.from_env("A_TOKEN"), "FILE": Secret.from_file(tmp_path / "key")}
    with pytest.raises(PolicyError, match="binding TOKEN: the environment variable A_TOKEN is unset or empty"):
        opened(bindings, tmp_path)
    monkeypatch.setenv("A_TOKEN", TOKEN)
    with pytest.raises(PolicyError, match="binding FILE: can't read the file .*key: No such file or directory"):
        opened(bindings, tmp_path)
    (tmp_path / "key").write_text("in a file\n")
    env = opened(bindings, tmp_path)
    monkeypatch.delenv("A_TOKEN")
    assert (env.TOKEN.reveal(), env.FILE.reveal()) == (TOKEN, "in a file")


def test_a_secret_file_that_is_not_text_is_refused_without_showing_its_content(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"s3cret\xff")
    with pytest.raises(PolicyError) as caught:
        opened({"FILE": Secret.from_file(tmp_path / "key")}, tmp_path)
    shown = "".join(traceback.format_exception(caught.value))
    assert "not UTF-8" in shown
    assert "s3cret" not in shown


def test_no_text_about_a_secret_shows_it(tmp_path: Path) -> None:
    env = opened({"TOKEN": Secret(TOKEN)}, tmp_path)
    token = env.TOKEN
    for shown in (repr(token), str(token), f"{token}", "%s" % token, repr(env), repr({"token": token})):  # noqa: UP031
        assert "s3cret" not in shown
    for taken in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="can't be pickled or copied"):
            taken(token)
    with pytest.raises(TypeError):
        vars(token)
    trace = traceback.TracebackException.from_exception(failure_beside(token), capture_locals=True)
    shown = "".join(trace.format())
    assert "token = <Secret, given>" in shown
    assert "s3cret" not in shown


def failure_beside(token: Secret) -> Exception:
    try:
        _ = token.reveal() + 1  # type: ignore[operator]
    except TypeError as error:
        return error
    raise AssertionError


@pytest.mark.usefixtures("expected_errors")
def test_the_log_redacts_a_secret_in_lines_and_tracebacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("pyinterceptor")

    async def main() -> None:
        async with open_env({"TOKEN": Secret(TOKEN), "SHORT": Secret("s3cret")}, tmp_path):
            log.warning("a handler said %r and %s", TOKEN, TOKEN)
            try:
                Headers({"authorization": f"Bearer {TOKEN}"})
            except ValueError:
                log.exception("the handler failed")
            log.error("nothing in it: %s", "plain", exc_info=ValueError("plain"))

    trio.run(main)
    assert "a handler said" in caplog.text
    assert "Bearer [secret]" in caplog.text
    assert "ValueError: plain" in caplog.text
    assert "s3cret" not in caplog.text
    assert caplog.records[-1].exc_info is not None
    assert log.filters == []


@pytest.mark.usefixtures("expected_errors")
@pytest.mark.parametrize(
    "secret", ["s3cret", "s3cr€t\\", "s3cr'et", 's3cr"et', "s3c'r\"et", "s3cret 1\ns3cret 2\n", "s3c+r/e t"]
)
def test_the_log_redacts_a_secret_in_every_encoding(
    secret: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("pyinterceptor")
    shown = [secret, repr(secret), ascii(secret), repr([secret, "'\""]), repr([f"'\"{secret}"]), json.dumps(secret)]
    shown += [json.dumps(secret, ensure_ascii=False), repr(secret.encode()), repr(b"'\"" + secret.encode())]
    shown += [quote(secret), quote(secret, safe=""), urlencode({"a": secret})]

    async def main() -> None:
        async with open_env({"TOKEN": Secret(secret)}, tmp_path):
            for text in shown:
                log.error("%s", f"<{text}>")
                log.error("failed", exc_info=ExceptionGroup("in a group", [ValueError(text)]))

    trio.run(main)
    assert "s3c" not in caplog.text
