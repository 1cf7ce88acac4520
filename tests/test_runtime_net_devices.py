"""Network devices that config.json moves into a container: `linux.netDevices`."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from test_network_netlink import ours, theirs

from minicontainer.network import interfaces, moving
from minicontainer.network.links import RTM_NEWLINK
from minicontainer.network.netlink import NLM_F_ACK

if TYPE_CHECKING:
    from bundles import Bundle
    from networks import Machine

pytest_plugins = ["networks"]
pytestmark = pytest.mark.skipif(not shutil.which("ip"), reason="ip is the witness: apt-get install iproute2")


def ip(*words: str, inside: int = 0) -> Any:
    """What ip(8) says, of the namespace of a process."""
    enter = ["nsenter", "--net", "--target", str(inside)] if inside else []
    done = subprocess.run([*enter, "ip", "-json", *words], check=True, capture_output=True, text=True)
    return json.loads(done.stdout or "null")


def cable(*addresses: tuple[str, ...]) -> None:
    """A device `one`, with addresses, and its other end `two`."""
    ip("link", "add", "one", "mtu", "1400", "address", "02:00:00:00:00:07", "type", "veth", "peer", "two")
    for words in addresses:
        ip("address", "add", *words, "dev", "one")


def asked(bundle: Bundle, devices: dict[str, Any]) -> Bundle:
    bundle.linux["netDevices"] = devices
    return bundle


@pytest.mark.parametrize("name", ["one", "eth7"])
def test_a_device_arrives_with_all_that_lasts(bundle: Bundle, machine: Machine, name: str) -> None:
    cable(
        ("10.1.2.3/24", "broadcast", "10.1.2.254"),
        ("10.9.0.1/32",),
        ("10.8.0.1", "peer", "10.8.0.2/30"),
        ("fd00:7::1/64", "nodad"),
        ("10.7.0.1/24", "valid_lft", "500", "preferred_lft", "500"),
        ("169.254.9.9/16", "scope", "link"),
    )
    ip("link", "set", "two", "up")
    pid = bundle.state(asked(bundle, {"one": {} if name == "one" else {"name": name}}).start("sleep", "100"))["pid"]
    assert {link["ifname"] for link in ip("link")} == {"lo", "two"}
    (link,) = (link for link in ip("address", inside=pid) if link["ifname"] == name)
    assert (link["address"], link["mtu"], "UP" in link["flags"]) == ("02:00:00:00:00:07", 1400, True)
    keys = ("local", "address", "prefixlen", "broadcast", "scope")
    found = [[entry[key] for key in keys if key in entry] for entry in link["addr_info"] if entry["scope"] == "global"]
    assert sorted(found) == sorted(
        [
            ["10.1.2.3", 24, "10.1.2.254", "global"],
            ["10.9.0.1", 32, "global"],
            ["10.8.0.1", "10.8.0.2", 30, "global"],
            ["fd00:7::1", 64, "global"],
        ]
    )
    assert not any(entry.get("tentative") for entry in link["addr_info"] if entry["scope"] == "global")


def test_it_goes_where_the_container_goes(bundle: Bundle, machine: Machine) -> None:
    first = bundle.state(bundle.start("sleep", "100"))["pid"]
    cable(("10.1.2.3/24",))
    bundle.linux["namespaces"] = [entry for entry in bundle.linux["namespaces"] if entry["type"] != "network"]
    bundle.linux["namespaces"].append({"type": "network", "path": f"/proc/{first}/ns/net"})
    said = asked(bundle, {"one": {"name": "eth%d"}}).run("ip", "address", "show", "eth0")
    assert "inet 10.1.2.3/24" in said
    assert "eth0" in {link["ifname"] for link in ip("link", inside=first)}


def test_it_belongs_to_the_root_of_a_user_namespace(bundle: Bundle, machine: Machine) -> None:
    bundle.linux["namespaces"].append({"type": "user"})
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 200000, "size": 65536}]
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind] = ["CAP_NET_ADMIN"]
    cable(("10.1.2.3/24",))
    said = asked(bundle, {"one": {}}).run("sh", "-c", "ip link set one mtu 1300; ip address show one")
    assert "mtu 1300" in said
    assert "inet 10.1.2.3/24" in said


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ({"none": {}}, "there is no network device none"),
        ({"one": {"name": "lo"}}, "the network device one cannot become lo: there is one of that name"),
        ({"lo": {"name": "other"}}, "the network device lo cannot be moved"),
        ({"one": {"name": "a/b"}}, "linux.netDevices: 'a/b' is no name of a network device"),
        ({"one": {"name": "x" * 16}}, "is no name of a network device"),
        ({"": {}}, "linux.netDevices: '' is no name"),
        ({"one": {"name": 7}}, "linux.netDevices.one.name: 7 is no text"),
    ],
)
def test_a_device_that_cannot_be_moved_is_named(
    bundle: Bundle, machine: Machine, devices: dict[str, Any], words: str
) -> None:
    cable()
    asked(bundle, devices).says("true")
    bundle.write()
    name = bundle.name()
    done = bundle.ask("run", name)
    assert (done.returncode, words in done.stderr) == (1, True), done.stderr
    assert bundle.ask("state", name).returncode == 1
    assert {link["ifname"] for link in ip("link")} == {"lo", "one", "two"}


@pytest.mark.parametrize("path", [True, False])
def test_it_takes_a_network_of_the_containers_own(bundle: Bundle, machine: Machine, path: bool) -> None:
    cable()
    bundle.config["mounts"] = [entry for entry in bundle.config["mounts"] if entry["type"] != "sysfs"]
    bundle.linux["namespaces"] = [entry for entry in bundle.linux["namespaces"] if entry["type"] != "network"]
    if path:
        own = Path("/proc/thread-self").resolve()
        bundle.linux["namespaces"].append({"type": "network", "path": f"{own}/ns/net"})
    asked(bundle, {"one": {}}).says("true")
    bundle.write()
    done = bundle.ask("run", bundle.name())
    assert (done.returncode, "the network namespace that they are in" in done.stderr) == (1, path), done.stderr
    assert ("need a network namespace of the container's own" in done.stderr) != path
    assert "one" in {link["ifname"] for link in ip("link")}


def test_the_requests_are_pyroute2s() -> None:
    attrs = [("IFLA_NET_NS_FD", 17), ("IFLA_IFNAME", "eth7")]
    assert ours(RTM_NEWLINK, NLM_F_ACK, 3, moving.move_request(5, 17, "eth7")) == theirs(
        ifinfmsg, RTM_NEWLINK, NLM_F_ACK, 3, index=5, attrs=attrs
    )
    assert interfaces.up_by_index_request(5) == theirs(ifinfmsg, index=5, flags=1, change=1)[16:]
    attrs = [("IFA_ADDRESS", "10.1.2.3"), ("IFA_LOCAL", "10.1.2.3"), ("IFA_BROADCAST", "10.1.2.254")]
    seen = theirs(ifaddrmsg, family=2, prefixlen=24, flags=0x80, index=4, attrs=[*attrs, ("IFA_FLAGS", 0x80)])[16:]
    wanted = theirs(ifaddrmsg, family=2, prefixlen=24, index=9, attrs=[*attrs, ("IFA_FLAGS", 0x02)])[16:]
    assert moving.same_address_request(seen, 9) == wanted


def test_features_tell_of_it(bundle: Bundle) -> None:
    section = json.loads(bundle.tell("features"))["linux"]
    assert section["netDevices"] == {"enabled": True}
    assert "MPOL_BIND" in section["memoryPolicy"]["modes"]
    assert "MPOL_F_STATIC_NODES" in section["memoryPolicy"]["flags"]
