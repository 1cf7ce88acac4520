"""`minicontainer network` and the options of `run` that go with it, as a user types them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from networks import Machine

pytest_plugins = ["networks"]


def command(*words: str, status: int = 0) -> str:
    """What the program prints; its complaint where a status other than 0 is expected."""
    done = subprocess.run(
        [sys.executable, "-m", "minicontainer.cli", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, (words, done.stdout, done.stderr)
    return done.stderr if status else done.stdout


@pytest.fixture
def image(machine: Machine, rootfs: str) -> str:
    """An image of the tests' root."""
    command("import", rootfs, "box")
    return "box"


WAIT = ["sleep", "1000"]


def inspect(name: str) -> Any:
    return json.loads(command("network", "inspect", name))[0]


def test_network_from_creation_to_removal(machine: Machine) -> None:
    before = machine.view()
    words = (
        "--subnet 10.9.0.0/24 --subnet fd00:9::/64 --gateway 10.9.0.254 --ip-range 10.9.0.128/25 --mtu 1400 --internal"
        " --ip-range fd00:9::8000/113"
    )
    assert command("network", "create", *words.split(), "shop") == "shop\n"
    command("network", "create", "other")
    found = inspect("shop")
    assert (found["subnet"], found["subnet6"], found["gateway"]) == ("10.9.0.0/24", "fd00:9::/64", "10.9.0.254")
    assert (found["range"], found["mtu"], found["internal"]) == ("10.9.0.128/25", 1400, True)
    assert found["range6"] == "fd00:9::8000/113"
    assert command("network", "ls", "-q").split() == ["other", "shop"]
    listed = command("network", "ls").splitlines()
    assert listed[0].split() == ["NAME", "DRIVER", "SUBNET", "MEMBERS"]
    assert listed[2].split() == ["shop", "bridge", "10.9.0.0/24,", "fd00:9::/64", "0"]
    assert command("network", "rm", "other") == "other\n"
    assert command("network", "prune") == "shop\n"
    assert machine.view() == before


def test_errors_are_one_line_with_a_hint_and_a_status(machine: Machine) -> None:
    for words, complaint in (
        ("network rm shop", "there is no network 'shop' ("),
        ("network inspect shop", "there is no network"),
        ("network inspect bridge", "'bridge' is always there, and is no network of your own ("),
        ("network create a.b", "cannot be a network's name ("),
        ("network create --subnet 10.9.0.0/24 --subnet 10.8.0.0/24 x", "twice for one family"),
        ("network create -o vni x", "no value (KEY=VALUE)"),
        ("network connect shop nobody", "there is no container nobody"),
    ):
        said = command(*words.split(), status=1)
        assert complaint in said
        assert said.count("\n") == 1
    assert "VERB" in command("network", status=125)


def test_run_joins_networks_with_names_addresses_and_ports(machine: Machine, image: str) -> None:
    for name in ("front", "back"):
        command("network", "create", name)
    command("network", "create", "--subnet", "10.9.0.0/24", "--subnet", "fd00:9::/64", "shop")
    where = ["--network", "shop", "--network", "back", "--ip", "10.9.0.7", "--ip6", "fd00:9::7"]
    where += ["--network-alias", "web", "-p", "8080:80"]
    one = command("run", "-d", "--name", "one", *where, image, "sleep", "1000").strip()
    try:
        members = inspect("shop")["members"]
        assert (members[one]["address"], members[one]["address6"]) == ("10.9.0.7", "fd00:9::7")
        heard = command("run", "--rm", "--network", "shop", image, "busybox", "nslookup", "web")
        assert "10.9.0.7" in heard
        assert "still runs" in command("rm", "one", status=1)
        assert "has members" in command("network", "rm", "shop", status=1)
        command("network", "connect", "--alias", "late", "front", "one")
        assert "10." in command("run", "--rm", "--network", "front", image, "busybox", "nslookup", "late")
        shown = command("exec", "one", "busybox", "cat", "/etc/resolv.conf")
        assert shown.count("nameserver") == 3, "its file was written anew, in place"
        command("network", "disconnect", "shop", "one")
        assert inspect("shop")["members"] == {}
        assert "10.9.0.7" not in command("exec", "one", "busybox", "ip", "addr")
    finally:
        command("rm", "-f", "one")
    assert machine.view()["links"] == ["lo"]
    for words, complaint in (
        ("--network nowhere", "no network 'nowhere'"),
        ("--network host --network shop", "goes with no other"),
        ("--network none --ip 10.9.0.7", "no addresses to choose"),
        ("--network-alias web", "no names"),
        ("--network shop --network-alias a.b", "cannot be an alias"),
        ("--network shop --ip 10.8.0.7", "not an address for a container of network shop"),
    ):
        assert complaint in command("run", "--rm", *words.split(), image, "true", status=125)
    assert command("network", "prune").split() == ["back", "front", "shop"]


def test_limits_are_asked_for_with_the_network(machine: Machine, image: str) -> None:
    for name in ("shop", "back"):
        command("network", "create", name)
    wish = "name=shop,alias=web,ip6=,download=20M,upload=4M"
    assert "'ip6=' has no value" in command("run", "--rm", "--network", wish, image, "true", status=125)
    wish = wish.replace("ip6=,", "")
    one = command("run", "-d", "--name", "one", "--network", wish, image, "sleep", "1000").strip()
    try:
        member = inspect("shop")["members"][one]
        assert (member["names"], member["download"], member["upload"]) == (
            ["one", one[:12], "web"],
            20_000_000,
            4_000_000,
        )
        assert _rate(machine, member["link"]) == 20_000_000 // 8
        assert _rate(machine, member["link"].replace("-v", "-i")) == 4_000_000 // 8
        command("network", "connect", "--download", "8M", "back", "one")
        assert _rate(machine, inspect("back")["members"][one]["link"]) == 8_000_000 // 8
        command("network", "disconnect", "back", "one")
        connect = ["network", "connect", "--delay", "20ms", "--loss", "1%", "back", "one"]
        delayed = subprocess.run(
            [sys.executable, "-m", "minicontainer.cli", *connect],
            capture_output=True,
            text=True,
            check=False,
        )
        if delayed.returncode == 0:
            (netem,) = _queues(machine, inspect("back")["members"][one]["link"], "netem")
            assert (netem["options"]["delay"]["delay"], netem["options"]["loss-random"]["loss"]) == (0.02, 0.01)
        else:
            assert "this kernel has no netem" in delayed.stderr
            assert inspect("back")["members"] == {}
    finally:
        command("rm", "-f", "one")
    for words, complaint in (
        ("name=shop,download=fast", "'fast' is not a rate (bits per second"),
        ("name=shop,delay=soon", "'soon' is not a delay"),
        ("name=shop,loss=200%", "'200%' is not a part of the packets"),
        ("name=shop,share=0", "'0' is not a share (1 to 100"),
        ("name=shop,share=2", "network shop has no limit that its members could share"),
        ("name=shop,speed=1", "speed is not known (KEY is one of name, alias, ip"),
        ("alias=web", "names no network"),
        ("name=shop,name=back", "name is given twice"),
        ("name=shop,ip=10.9.0.7 --ip 10.9.0.8", "choose an address each"),
        ("name=nowhere,upload=1M", "no network 'nowhere'"),
        ("name=bridge", "bridge is no network of your own"),
        ("shop --network shop", "network shop is named twice"),
    ):
        assert complaint in command("run", "--rm", "--network", *words.split(), image, "true", status=125)


def test_ports_are_shown_random_ones_among_them(machine: Machine, image: str) -> None:
    command("network", "create", "--ipv6", "shop")
    command("run", "-d", "--name", "one", "--network", "shop", "-p", "8080:80", "-p", "127.0.0.1::53/udp", image, *WAIT)
    command("run", "-d", "--name", "two", "-p", "81", image, *WAIT)
    command("run", "-d", "--name", "three", image, *WAIT)
    try:
        lines = command("port", "one").splitlines()
        assert lines[:2] == ["80/tcp -> 0.0.0.0:8080", "80/tcp -> [::]:8080"]
        free = re.fullmatch(r"53/udp -> 127\.0\.0\.1:(\d+)", lines[2])
        assert free
        assert f"udp . {free[1]} : " in machine.ruleset()
        (line,) = command("port", "two").splitlines()
        assert f"tcp . {line.rpartition(':')[2]} : " in machine.ruleset()
        assert command("port", "three") == ""
        assert "there is no container four" in command("port", "four", status=1)
    finally:
        command("rm", "-f", "one", "two", "three")


def test_members_share_the_limit_of_their_network(machine: Machine, image: str) -> None:
    command("network", "create", "--download", "30M", "--upload", "3M", "shop")
    found = inspect("shop")
    assert (found["download"], found["upload"]) == (30_000_000, 3_000_000)
    command("run", "-d", "--name", "one", "--network", "name=shop,share=2", image, "sleep", "1000")
    command("run", "-d", "--name", "two", image, "sleep", "1000")
    try:
        command("network", "connect", "--share", "4", "shop", "two")
        shown = machine.run("tc", "class", "show", "dev", found["link"])
        assert "rate 10Mbit ceil 30Mbit" in shown
        assert "rate 20Mbit ceil 30Mbit" in shown
        command("network", "disconnect", "shop", "two")
        shown = machine.run("tc", "class", "show", "dev", found["link"].replace("-n", "-s"))
        assert shown.count("rate 3Mbit ceil 3Mbit") == 2, "the whole, and the only one who is left"
    finally:
        command("rm", "-f", "one", "two")


def _queues(machine: Machine, link: str, kind: str) -> Any:
    return [it for it in json.loads(machine.run("tc", "-j", "qdisc", "show", "dev", link)) if it["kind"] == kind]


def _rate(machine: Machine, link: str) -> int:
    (bucket,) = _queues(machine, link, "tbf")
    return int(bucket["options"]["rate"])


def test_explain_shows_a_join_in_words(machine: Machine, image: str) -> None:
    command("network", "create", "--ipv6", "shop")
    explain = [
        sys.executable,
        "-m",
        "minicontainer.cli",
        "run",
        "--rm",
        "--explain",
        "--network",
        "shop",
        image,
        "true",
    ]
    said = subprocess.run(explain, capture_output=True, text=True, check=True).stderr
    for words in ("RTM_NEWLINK(bridge mc", "RTM_NEWLINK(veth mc", "the name server of shop", "RTM_NEWADDR(fd"):
        assert words in said
    for words in ("RTM_NEWROUTE(default via 10.", "nft(add table inet", "add element bridge"):
        assert words in said
    command("run", "-d", "--name", "one", "--network", "shop", image, "sleep", "1000")
    try:  # and into a network that stands
        said = subprocess.run(explain, capture_output=True, text=True, check=True).stderr
        assert "NFT_MSG_NEWSETELEM(sender4 mc" in said
        assert "nft(" not in said
    finally:
        command("rm", "-f", "one")
    assert "()" not in "".join(re.findall(r"(?:RTM|NFT)_\w+\(.?", said)), "each says what it is about"
