"""Our netlink messages against pyroute2's: the same request must be the same bytes."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from minicontainer import linux
from minicontainer.container import Container, failures
from minicontainer.errors import StartError
from minicontainer.network import Bridge, links, netlink
from minicontainer.network.addresses import Subnet

if TYPE_CHECKING:
    from networks import Machine

    from minicontainer.network.netlink import Netlink

pytest_plugins = ["networks"]

MAC = bytes.fromhex("026dac1d0002")


def theirs(kind: Any, number: int = 0, how: int = 0, sequence: int = 0, **fields: Any) -> bytes:
    message = kind()
    for name, value in fields.items():
        message[name] = value
    message["header"].update({"type": number, "flags": how | netlink.NLM_F_REQUEST, "sequence_number": sequence})
    message.encode()
    return bytes(message.data)


def ours(type: int, flags: int, sequence: int, payload: bytes) -> bytes:
    return netlink.message(type, flags | netlink.NLM_F_REQUEST, sequence, payload)


CREATE = netlink.NLM_F_ACK | netlink.NLM_F_CREATE | netlink.NLM_F_EXCL


def test_bridge_request_is_pyroute2s() -> None:
    attrs = [
        ("IFLA_IFNAME", "mc12345678-br0"),
        ("IFLA_ADDRESS", "02:6d:ac:1d:00:02"),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "bridge")]}),
    ]
    assert ours(links.RTM_NEWLINK, CREATE, 7, links.bridge_request("mc12345678-br0", MAC)) == theirs(
        ifinfmsg, links.RTM_NEWLINK, CREATE, 7, attrs=attrs
    )


def test_veth_request_is_pyroute2s() -> None:
    peer = [("IFLA_IFNAME", "eth0"), ("IFLA_ADDRESS", "02:6d:ac:1d:00:02"), ("IFLA_NET_NS_PID", 4711)]
    attrs = [
        ("IFLA_IFNAME", "mc12345678-0002"),
        ("IFLA_MASTER", 9),
        (
            "IFLA_LINKINFO",
            {
                "attrs": [
                    ("IFLA_INFO_KIND", "veth"),
                    ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", {"attrs": peer})]}),
                ]
            },
        ),
    ]
    assert ours(links.RTM_NEWLINK, CREATE, 8, links.veth_request("mc12345678-0002", 9, 4711, "eth0", MAC)) == theirs(
        ifinfmsg, links.RTM_NEWLINK, CREATE, 8, flags=1, change=1, attrs=attrs
    )


@pytest.mark.parametrize("alias", ["", "minicontainer ip_forward=0"])
def test_up_request_is_pyroute2s(alias: str) -> None:
    attrs = [("IFLA_IFNAME", "eth0")] + ([("IFLA_IFALIAS", alias)] if alias else [])
    assert links.up_request("eth0", alias) == theirs(ifinfmsg, flags=1, change=1, attrs=attrs)[16:]


def test_hairpin_request_is_pyroute2s() -> None:
    slave = [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", {"attrs": [("IFLA_BRPORT_MODE", 1)]})]
    attrs = [("IFLA_IFNAME", "v"), ("IFLA_LINKINFO", {"attrs": slave})]
    assert links.hairpin_request("v") == theirs(ifinfmsg, attrs=attrs)[16:]


def test_delete_request_is_pyroute2s() -> None:
    attrs = [("IFLA_IFNAME", "mc12345678-0002")]
    assert links.link_by_name("mc12345678-0002") == theirs(ifinfmsg, attrs=attrs)[16:]


def test_address_request_is_pyroute2s() -> None:
    attrs = [("IFA_LOCAL", "172.29.0.2"), ("IFA_ADDRESS", "172.29.0.2"), ("IFA_BROADCAST", "172.29.255.255")]
    request = links.address_request(2, "172.29.0.2", Subnet.parse("172.29.0.0/16"))
    assert request == theirs(ifaddrmsg, family=socket.AF_INET, prefixlen=16, index=2, attrs=attrs)[16:]


def test_route_request_is_pyroute2s() -> None:
    fields = {"family": socket.AF_INET, "table": 254, "proto": 3, "scope": 0, "type": 1}
    request = links.route_request("172.29.0.1")
    assert request == theirs(rtmsg, **fields, attrs=[("RTA_GATEWAY", "172.29.0.1")])[16:]


def test_kernels_answers_read_as_pyroute2_reads_them(machine: Machine) -> None:
    machine.neighbour()
    with netlink.Netlink() as connection:
        dump = connection.dump("RTM_GETLINK", "all", links.RTM_GETLINK, bytes(16))
        found = {link.name: link.index for link in links.all_links(connection)}
    read = {}
    for body in dump:
        message = ifinfmsg(ours(links.RTM_NEWLINK, 0, 0, body))
        message.decode()
        read[message.get_attr("IFLA_IFNAME")] = message["index"]
    assert found == read
    assert found.keys() == {"lo", "eth0"}


def test_error_of_the_kernel_names_the_request(machine: Machine) -> None:
    with netlink.Netlink() as connection, pytest.raises(linux.KernelError) as caught:
        links.set_up(connection, "nothing")
    assert str(caught.value) == "RTM_NEWLINK(nothing up): ENODEV (No such device)"


def test_dump_larger_than_one_datagram_is_complete(machine: Machine) -> None:
    script = "".join(f"route add blackhole 10.{n >> 8}.{n & 255}.0/24\n" for n in range(3000))
    import subprocess

    subprocess.run(["ip", "-batch", "-"], input=script, text=True, check=True, env=machine.environment)
    with netlink.Netlink() as connection:
        assert len([it for it in links.routed_subnets(connection) if str(it).startswith("10.")]) == 3000


def test_failed_request_gets_a_hint_about_links_not_about_filesystems(machine: Machine) -> None:
    """A cable that somebody removes between two requests of a start."""
    create = links.create_veth

    def removed_at_once(netlink: Netlink, name: str, *rest: Any) -> None:
        create(netlink, name, *rest)
        links.delete_link(netlink, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(links, "create_veth", removed_at_once)
        with pytest.raises(StartError, match=r"Bridge could not attach: RTM_NEWLINK\(.* hairpin on\)") as caught:
            Container(["/bin/true"], Bridge(publish={8080: 80})).run()
    assert caught.value.errno == errno.ENODEV
    assert "the link is gone" in caught.value.hint
    with pytest.raises(OSError, match=r"if_nametoindex\(nowhere\): ENODEV"):
        links.index_of("nowhere")
    assert failures.hint("if_nametoindex", errno.ENODEV) == caught.value.hint
    assert "modprobe" in failures.hint("RTM_NEWQDISC", errno.EOPNOTSUPP)
    assert "filesystem" in failures.hint("mount", errno.ENODEV)
