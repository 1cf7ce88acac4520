"""Who we are to a registry: challenges, passwords, helpers, tokens; login and logout."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import subprocess
import tempfile
import time
from typing import Any

import pytest
from images import FakeRegistry, Handler, MadeImage, always, fake_registry, times
from middlemen import credential_helper
from registry import TokenServer, busybox_tree
from stores import told

from minicontainer.cli import main
from minicontainer.errors import HostError, ImageError, NotFoundError
from minicontainer.images import import_, pull, push
from minicontainer.images.challenge import parse
from minicontainer.images.credentials import IDENTITY, configured, forget, keep
from minicontainer.images.login import login, logout


def config(home: str, **values: Any) -> None:
    os.makedirs(f"{home}/docker", exist_ok=True)
    with open(f"{home}/docker/config.json", "w") as file:
        json.dump(values, file)


def read(home: str) -> dict[str, Any]:
    with open(f"{home}/docker/config.json") as file:
        found: dict[str, Any] = json.load(file)
        return found


def pair(name: str, password: str) -> str:
    return base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (['Basic realm="a"'], [("basic", {"realm": "a"})]),
        (
            ['Bearer realm="https://a/token",service="b, c",scope="repository:x:pull,push"'],
            [("bearer", {"realm": "https://a/token", "service": "b, c", "scope": "repository:x:pull,push"})],
        ),
        (
            ['Basic realm="Basic x=\\"y\\", Bearer z", Bearer Realm = "r" , Service=s'],
            [("basic", {"realm": 'Basic x="y", Bearer z'}), ("bearer", {"realm": "r", "service": "s"})],
        ),
        (["Negotiate", "NTLM, BEARER realm=r"], [("negotiate", {}), ("ntlm", {}), ("bearer", {"realm": "r"})]),
        (['Bearer realm="first",realm="second"'], [("bearer", {"realm": "first"})]),
        (["Negotiate a2b4==, Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (['realm="of nobody"', '"', "=,=", 'Bearer realm="unterminated'], [("bearer", {})]),
        ([""], []),
    ],
)
def test_challenges_are_read_as_the_rfc_writes_them(
    headers: list[str], found: list[tuple[str, dict[str, str]]]
) -> None:
    assert [(one.scheme, one.parameters) for one in parse(headers)] == found


@pytest.mark.parametrize(
    ("registry", "entry"),
    [
        ("docker.io", "https://index.docker.io/v1/"),
        ("docker.io", "docker.io"),
        ("localhost:5000", "localhost:5000"),
        ("localhost:5000", "https://localhost:5000"),
        ("quay.io", "https://quay.io/v2/"),
    ],
)
def test_entry_of_a_registry_is_found_by_all_names_that_tools_give_it(home: str, registry: str, entry: str) -> None:
    config(home, auths={entry: {"auth": pair("ada", "a:b")}, "other.example": {"auth": pair("x", "y")}})
    assert configured(registry) == ("ada", "a:b")
    assert configured("third.example") is None


@pytest.mark.parametrize(
    "document",
    [
        '{"auths": [1]}',
        "[]",
        "{",
        '{"auths": {"a.example": {"auth": "%%%"}}}',
        '{"auths": {"a.example": {"auth": "YWRh"}}}',
        '{"auths": {"a.example": {"auth": 7}}}',
        '{"auths": {"a.example": "YTpi"}}',
        '{"credsStore": "../bin/sh"}',
        '{"credsStore": 7}',
        '{"credHelpers": "x"}',
    ],
)
def test_file_that_is_not_as_docker_writes_it_is_named(home: str, document: str) -> None:
    os.makedirs(f"{home}/docker")
    with open(f"{home}/docker/config.json", "w") as file:
        file.write(document)
    with pytest.raises(ImageError) as caught:
        configured("a.example")
    assert f"{home}/docker/config.json" in str(caught.value)


def test_skopeo_takes_what_login_has_written_and_the_other_way_round(
    home: str, password_registry: tuple[str, str, str]
) -> None:
    host, user, password = password_registry
    config(home, auths={"other.example": {"auth": pair("x", "y")}}, HttpHeaders={"X": "kept"})
    assert login(host, user, password) == f"{home}/docker/config.json"
    assert read(home)["auths"].keys() == {"other.example", host}
    assert read(home)["HttpHeaders"] == {"X": "kept"}
    assert stat.S_IMODE(os.stat(f"{home}/docker/config.json").st_mode) == 0o600
    file = ["--authfile", f"{home}/docker/config.json"]
    whoami = subprocess.run(["skopeo", "login", *file, "--get-login", host], capture_output=True, text=True, check=True)
    assert whoami.stdout.strip() == user
    logout(host)
    assert read(home)["auths"].keys() == {"other.example"}
    with pytest.raises(NotFoundError):
        logout(host)
    said = subprocess.run(
        ["skopeo", "login", *file, "--tls-verify=false", "-u", user, "--password-stdin", host],
        input=password,
        text=True,
        capture_output=True,
    )
    assert said.returncode == 0, said.stderr
    assert configured(host) == (user, password)


def test_login_with_a_wrong_password_is_refused_and_not_kept(
    home: str, password_registry: tuple[str, str, str], token_registry: tuple[str, TokenServer, tuple[str, str]]
) -> None:
    for host, user in ((password_registry[0], password_registry[1]), (token_registry[0], token_registry[2][0])):
        with pytest.raises(ImageError) as caught:
            login(host, user, "wrong")
        assert user in str(caught.value)
        assert configured(host) is None


def test_login_to_a_registry_with_tokens_serves_a_push(
    home: str, token_registry: tuple[str, TokenServer, tuple[str, str]]
) -> None:
    host, server, (user, password) = token_registry
    login(host, user, password)
    busybox_tree(f"{home}/tree")
    server.seen.clear()
    push(import_(f"{home}/tree", f"{host}/logged-in:v1").name)
    assert [scope for scope, _ in server.seen] == ["repository:logged-in:pull,push"]


def test_login_where_no_registry_is_is_refused(home: str) -> None:
    with fake_registry() as fake:
        with pytest.raises(ImageError) as caught:
            login(fake.host, "ada", "x")
        assert "404" in str(caught.value)


def test_command_line_logs_in_and_out(
    home: str,
    password_registry: tuple[str, str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import io

    host, user, password = password_registry
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\n"))
    assert main(["login", "-u", user, "--password-stdin", f"http://{host}"]) == 0
    said = capsys.readouterr()
    assert said.out == "Login Succeeded\n"
    assert "unencrypted" in said.err
    assert configured(host) == (user, password)
    assert main(["logout", host]) == 0
    assert configured(host) is None
    assert main(["logout", host]) == 1
    monkeypatch.setattr("sys.stdin", io.StringIO("wrong\n"))
    assert main(["login", "-u", user, "--password-stdin", host]) == 1
    assert "401" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["login", host]) == 1
    assert "nobody is here to be asked" in capsys.readouterr().err


def test_helper_keeps_what_login_gives_it(home: str, password_registry: tuple[str, str, str]) -> None:
    host, user, password = password_registry
    secrets = credential_helper(f"{home}/bin", "drawer")
    config(home, credsStore="drawer", credHelpers={host: "drawer"})  # skopeo reads the second only
    assert login(host, user, password) == "docker-credential-drawer"
    with open(secrets) as file:
        assert json.load(file) == {host: [user, password]}
    assert "auths" not in read(home)
    busybox_tree(f"{home}/tree")
    push(import_(f"{home}/tree", f"{host}/helped:v1").name)
    with open(f"{secrets}.calls") as file:
        assert file.read().split() == ["store", "get"]  # one push asks once
    whoami = subprocess.run(
        ["skopeo", "login", "--authfile", f"{home}/docker/config.json", "--get-login", host],
        capture_output=True,
        text=True,
    )
    assert whoami.stdout.strip() == user, whoami.stderr  # the protocol as others speak it
    logout(host)
    assert configured(host) is None


def test_password_store_keeps_what_login_gives_it(
    home: str, password_registry: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Debian's docker-credential-pass: the password is in a file that GnuPG has encrypted."""
    if not (shutil.which("docker-credential-pass") and shutil.which("pass")):
        pytest.skip("no helper is here (apt-get install --no-install-recommends golang-docker-credential-helpers pass)")
    host, user, password = password_registry
    monkeypatch.setenv("PASSWORD_STORE_DIR", f"{home}/store")
    with tempfile.TemporaryDirectory(prefix="mc-", dir="/var/tmp") as keys:  # a socket's path has 107 bytes at most
        monkeypatch.setenv("GNUPGHOME", keys)
        try:
            new = ["gpg", "--batch", "--passphrase", "", "--quick-generate-key", "tests@example", "default", "default"]
            told(*new, "never")
            told("pass", "init", "tests@example")
            config(home, credsStore="pass", credHelpers={host: "pass"})
            assert login(host, user, password) == "docker-credential-pass"
            assert json.loads(told("docker-credential-pass", "list")) == {host: user}
            kept = [
                f"{place}/{name}"
                for place, _, names in os.walk(f"{home}/store/docker-credential-helpers")
                for name in names
            ]
            assert len(kept) == 1
            with open(kept[0], "rb") as file:
                assert password.encode() not in file.read()
            assert "auths" not in read(home)
            assert configured(host) == (user, password)
            assert (
                told("skopeo", "login", "--authfile", f"{home}/docker/config.json", "--get-login", host).strip() == user
            )
            logout(host)
            assert configured(host) is None
            with pytest.raises(NotFoundError):
                logout(host)
        finally:
            subprocess.run(["gpgconf", "--kill", "all"], check=True)  # its agent


def test_helper_of_one_registry_is_asked_for_this_one_only(home: str) -> None:
    secrets = credential_helper(f"{home}/bin", "drawer")
    with open(secrets, "w") as file:
        json.dump({"a.example": ["ada", "x"], "https://index.docker.io/v1/": ["grace", "y"]}, file)
    config(
        home, credHelpers={"a.example": "drawer", "docker.io": "drawer"}, auths={"b.example": {"auth": pair("c", "d")}}
    )
    assert configured("a.example") == ("ada", "x")
    assert configured("docker.io") == ("grace", "y")
    assert configured("b.example") == ("c", "d")


def test_helper_is_not_asked_for_a_registry_that_lets_everybody_in(home: str, busybox_image: str) -> None:
    config(home, credsStore="not-installed")
    assert pull(busybox_image).layers


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/bin/sh\necho the drawer is locked; exit 1", "the drawer is locked"),
        ("#!/bin/sh\necho no JSON", "something else"),
        ('#!/bin/sh\necho \'{{"Username": 7, "Secret": []}}\'', "something else"),
        ("#!/no/such/interpreter", "cannot be started"),
        ("#!/bin/sh\nsleep 60", "has not answered"),
    ],
)
def test_helper_that_fails_is_named(home: str, text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicontainer.images.credentials.HELPER_SECONDS", 2.0)
    credential_helper(f"{home}/bin", "drawer", text.replace("sleep 60", "exec sleep 60"))
    config(home, credsStore="drawer")
    with pytest.raises(HostError) as caught:
        configured("a.example")
    assert said in str(caught.value)
    assert "docker-credential-drawer" in str(caught.value)


def test_identity_token_is_exchanged_for_an_access_token(home: str) -> None:
    asked: list[str] = []

    def give(handler: Handler) -> None:
        asked.append(handler.rfile.read(int(handler.headers["Content-Length"])).decode())
        handler.answer(200, b'{"access_token": "fresh", "expires_in": 300}')

    with fake_registry() as fake, fake_registry() as tokens:
        tokens.faults.append(always(give))
        fake.faults.append(asks_for(tokens, "Bearer fresh"))
        keep(fake.host, (IDENTITY, "the-identity"))
        assert read(home)["auths"] == {fake.host: {"identitytoken": "the-identity"}}
        pull(fake.serve(MadeImage()))
        assert "grant_type=refresh_token" in asked[0]
        assert "refresh_token=the-identity" in asked[0]
        assert {shown for _, shown in fake.asked} == {"", "Bearer fresh"}
        forget(fake.host)


def asks_for(tokens: FakeRegistry, wanted: str) -> Any:
    """A fault: whoever does not show this is sent to the token server."""

    def fault(handler: Handler) -> bool:
        if handler.headers.get("Authorization") == wanted:
            return False
        handler.answer(401, b"", {"WWW-Authenticate": f'Bearer realm="http://{tokens.host}/token",service="s"'})
        return True

    return fault


def test_token_that_the_registry_no_longer_takes_is_renewed(home: str) -> None:
    given: list[str] = []

    def give(handler: Handler) -> None:
        given.append(f"token-{len(given)}")
        handler.answer(200, json.dumps({"token": given[-1]}).encode())

    def ask(handler: Handler) -> bool:
        """The first token is good for two requests."""
        shown = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        used[shown] = used.get(shown, 0) + 1
        if shown in given and (shown != given[0] or used[shown] <= 2):
            return False
        handler.answer(
            401, b"", {"WWW-Authenticate": f'Bearer realm="http://{tokens.host}/token",error="invalid_token"'}
        )
        return True

    used: dict[str, int] = {}
    with fake_registry() as fake, fake_registry() as tokens:
        tokens.faults.append(always(give))
        fake.faults.append(ask)
        assert len(pull(fake.serve(MadeImage({"a": b"1"}, {"b": b"2"}, {"c": b"3"}))).layers) == 3
        assert len(given) >= 2


def test_token_is_not_used_after_its_time(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from minicontainer.images.auth import Authorizer
    from minicontainer.images.transport import Transport

    with fake_registry() as tokens, Transport() as transport:
        tokens.faults.append(times(1, lambda handler: handler.answer(200, b'{"token": "a", "expires_in": 20}')))
        tokens.faults.append(always(lambda handler: handler.answer(200, b'{"token": "b"}')))
        authorizer = Authorizer("r.example", transport, ("ada", "x"))
        asks = [f'Bearer realm="http://{tokens.host}/token"']
        assert authorizer.answer(asks, "scope", "")
        assert authorizer.header("scope") == "Bearer a"
        now = time.monotonic()
        monkeypatch.setattr("minicontainer.images.auth.time.monotonic", lambda: now + 15)
        assert authorizer.header("scope") == ""
        assert authorizer.answer(asks, "scope", "")
        assert authorizer.header("scope") == "Bearer b"


@pytest.mark.parametrize(
    "document",
    [b"", b"[]", b"7", b'{"token": 7}', b'{"token": "a\\r\\nX: y"}', b'{"token": "\\u00e4"}', b"[" * 10_000],
)
def test_token_server_that_sends_no_token_is_an_error(home: str, document: bytes) -> None:
    with fake_registry() as fake, fake_registry() as tokens:
        tokens.faults.append(always(lambda handler: handler.answer(200, document)))
        fake.faults.append(asks_for(tokens, "nothing"))
        with pytest.raises(ImageError) as caught:
            pull(f"{fake.host}/test")
        assert "no token" in str(caught.value)


def test_scope_is_ours_whatever_the_registry_asks_for(home: str) -> None:
    with fake_registry() as fake, fake_registry() as tokens:
        tokens.faults.append(always(lambda handler: handler.answer(200, b'{"token": "t"}')))
        challenge = f'Bearer realm="http://{tokens.host}/token",scope="repository:secret/plans:pull,push,delete"'
        fake.faults.append(always(lambda handler: handler.answer(401, b"", {"WWW-Authenticate": challenge})))
        with pytest.raises(ImageError):
            pull(f"{fake.host}/test")
        assert [path for path, _ in tokens.asked] == ["/token?scope=repository%3Atest%3Apull"] * 2


def test_first_of_several_challenges_that_we_can_answer_is_answered(home: str) -> None:
    with fake_registry() as fake:

        def ask(handler: Handler) -> bool:
            if handler.headers.get("Authorization", "").startswith("Basic "):
                return False
            handler.answer(401, b"", {"WWW-Authenticate": 'Negotiate, Basic realm="a, b"'})
            return True

        fake.faults.append(ask)
        assert pull(fake.serve(MadeImage()), credentials=("ada", "x")).layers
