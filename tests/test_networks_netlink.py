"""What user-defined networks say to the kernel, held against pyroute2's bytes for the same."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

from joins import start
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from minicontainer.network import Endpoint, Join, interfaces, macvlan, networks, overlay, shaping, sharing
from minicontainer.network.definition import Member, Network
from minicontainer.network.netlink import message

if TYPE_CHECKING:
    from networks import Machine
    from pyroute2.netlink import nlmsg

pytest_plugins = ["networks"]

MAC = bytes.fromhex("026d0a090007")
NETWORK = Network(
    "wide",
    {
        "driver": "overlay",
        "number": 3,
        "subnet": "10.50.1.0/24",
        "gateway": "10.50.1.1",
        "range": "10.50.1.0/24",
        "mtu": 1450,
        "options": {"vni": "42", "local": "192.0.2.1", "peers": "/x", "cluster": "10.50.0.0/16"},
    },
)


def read(kind: type[nlmsg], payload: bytes) -> Any:
    """Our payload as pyroute2 understands it."""
    found = kind(message(0, 0, 0, payload))
    found.decode()
    return found


def attribute(found: Any, *path: str) -> Any:
    for name in path:
        found = found.get_attr(name)
    return found


def test_cable() -> None:
    found = read(ifinfmsg, interfaces.cable_request("mc0-v000", 7, 99, "eth1", MAC, 1400))
    assert (attribute(found, "IFLA_IFNAME"), attribute(found, "IFLA_MASTER"), attribute(found, "IFLA_MTU")) == (
        "mc0-v000",
        7,
        1400,
    )
    peer = attribute(found, "IFLA_LINKINFO", "IFLA_INFO_DATA", "VETH_INFO_PEER")
    assert attribute(found, "IFLA_LINKINFO", "IFLA_INFO_KIND") == "veth"
    assert attribute(peer, "IFLA_IFNAME") == "eth1"
    assert (attribute(peer, "IFLA_ADDRESS"), attribute(peer, "IFLA_NET_NS_PID")) == (MAC.hex(":"), 99)


def test_far_end_of_the_cable() -> None:
    found = read(ifinfmsg, interfaces.up_by_index_request(5, 1400))
    assert (found["index"], found["flags"], found["change"], attribute(found, "IFLA_MTU")) == (5, 1, 1, 1400)


def test_port_of_the_bridge() -> None:
    found = read(ifinfmsg, interfaces.port_request("mc0-v000", True, True))
    assert attribute(found, "IFLA_LINKINFO", "IFLA_INFO_SLAVE_KIND") == "bridge"
    port = attribute(found, "IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA")
    assert (attribute(port, "IFLA_BRPORT_MODE"), attribute(port, "IFLA_BRPORT_ISOLATED")) == (1, 1)


def test_addresses_of_both_families() -> None:
    four = read(ifaddrmsg, interfaces.interface_address_request(5, "10.9.0.7", 24))
    assert (four["family"], four["prefixlen"], four["index"], four["flags"]) == (socket.AF_INET, 24, 5, 0)
    names = ("IFA_LOCAL", "IFA_ADDRESS", "IFA_BROADCAST")
    assert [attribute(four, name) for name in names] == ["10.9.0.7", "10.9.0.7", "10.9.0.255"]
    six = read(ifaddrmsg, interfaces.interface_address_request(5, "fd00:9::7", 64))
    assert (six["family"], six["prefixlen"], six["flags"]) == (socket.AF_INET6, 64, 0x02)
    assert [attribute(six, name) for name in names] == [None, "fd00:9::7", None]


def test_routes() -> None:
    found = read(rtmsg, interfaces.route_by_link_request("10.50.2.0", 5, "10.50.2.0/24", 0, onlink=True))
    assert (found["dst_len"], found["flags"], found["table"]) == (24, 4, 254)
    names = ("RTA_DST", "RTA_GATEWAY", "RTA_OIF", "RTA_PRIORITY")
    assert [attribute(found, name) for name in names] == ["10.50.2.0", "10.50.2.0", 5, None]
    found = read(rtmsg, interfaces.route_by_link_request("fd00:9::1", 5, "", 101, onlink=False))
    assert (found["family"], found["dst_len"], found["flags"]) == (socket.AF_INET6, 0, 0)
    assert [attribute(found, name) for name in names] == [None, "fd00:9::1", 5, 101]


def test_tunnel_and_its_entries() -> None:
    found = read(ifinfmsg, overlay.tunnel_request("mc0-x3", NETWORK))
    data = attribute(found, "IFLA_LINKINFO", "IFLA_INFO_DATA")
    assert attribute(found, "IFLA_LINKINFO", "IFLA_INFO_KIND") == "vxlan"
    names = ("IFLA_VXLAN_ID", "IFLA_VXLAN_LOCAL", "IFLA_VXLAN_LEARNING", "IFLA_VXLAN_PORT")
    assert [attribute(data, name) for name in names] == [42, "192.0.2.1", 0, 4789]
    assert (attribute(found, "IFLA_MTU"), attribute(found, "IFLA_ADDRESS")) == (1450, "02:6d:0a:32:01:00")
    found = read(ndmsg, overlay.neighbour_request(5, "10.50.2.0", MAC))
    assert (found["family"], found["ifindex"], found["state"]) == (socket.AF_INET, 5, 0x80)
    assert (attribute(found, "NDA_DST"), attribute(found, "NDA_LLADDR")) == ("10.50.2.0", MAC.hex(":"))
    found = read(ndmsg, overlay.forwarding_request(5, MAC, "192.0.2.2"))
    assert (found["family"], found["ifindex"], found["state"], found["flags"]) == (7, 5, 0xC0, 2)
    assert (attribute(found, "NDA_DST"), attribute(found, "NDA_LLADDR")) == ("192.0.2.2", MAC.hex(":"))


def test_tunnel_between_hosts_that_talk_ipv6() -> None:
    record = NETWORK.record() | {"options": NETWORK.options | {"local": "2001:db8::1"}}
    found = read(ifinfmsg, overlay.tunnel_request("mc0-x3", Network("wide", record)))
    data = attribute(found, "IFLA_LINKINFO", "IFLA_INFO_DATA")
    assert [attribute(data, name) for name in ("IFLA_VXLAN_LOCAL", "IFLA_VXLAN_LOCAL6")] == [None, "2001:db8::1"]
    found = read(ndmsg, overlay.neighbour_request(5, "fe80::6d:aff:fe32:200", MAC))
    assert (found["family"], attribute(found, "NDA_DST")) == (socket.AF_INET6, "fe80::6d:aff:fe32:200")
    found = read(ndmsg, overlay.forwarding_request(5, MAC, "2001:db8::2"))
    assert (found["family"], attribute(found, "NDA_DST")) == (7, "2001:db8::2")
    found = read(rtmsg, interfaces.route_by_link_request("fe80::1", 5, "fd00:50:0:2::/64", 0, onlink=False))
    names = ("RTA_DST", "RTA_GATEWAY", "RTA_OIF")
    assert [attribute(found, name) for name in names] == ["fd00:50:0:2::", "fe80::1", 5]
    found = read(rtmsg, interfaces.route_by_link_request("", 5, "fd00:50:0:2::/64", 0, onlink=False))
    assert (found["family"], attribute(found, "RTA_GATEWAY")) == (socket.AF_INET6, None)


def test_macvlan() -> None:
    found = read(
        ifinfmsg, macvlan.macvlan_request(4, 99, Member("10.9.0.7", link="mc1", interface="eth2"), 1500, "bridge")
    )
    names = ("IFLA_IFNAME", "IFLA_ADDRESS", "IFLA_LINK", "IFLA_MTU", "IFLA_NET_NS_PID")
    assert [attribute(found, name) for name in names] == ["mc1", MAC.hex(":"), 4, 1500, 99]  # eth2 once it is inside
    assert attribute(found, "IFLA_LINKINFO", "IFLA_INFO_KIND") == "macvlan"
    assert attribute(found, "IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_MACVLAN_MODE") == "bridge"


def test_token_bucket() -> None:
    found = read(tcmsg, shaping.bucket_request(5, 20_000_000))
    assert (found["index"], found["handle"], found["parent"]) == (5, 0x10000, 0xFFFFFFFF)
    assert attribute(found, "TCA_KIND") == "tbf"
    bucket = attribute(found, "TCA_OPTIONS", "TCA_TBF_PARMS")
    assert (bucket["rate"], bucket["limit"]) == (2_500_000, 2_500_000 // 20 + (1 << 17))


def test_delay_and_a_bucket_behind_it() -> None:
    request = shaping.delay_request(5, 20, 0.01)
    found = read(tcmsg, request)
    assert (found["index"], found["handle"], found["parent"]) == (5, 0x20000, 0xFFFFFFFF)
    assert attribute(found, "TCA_KIND") == "netem"
    latency, limit, loss = struct.unpack_from("=3I", request, request.index(b"netem") + 12)
    assert (latency, limit, loss) == (20_000 * 15.625, 1000, round(0xFFFFFFFF / 100))
    bucket = read(tcmsg, shaping.bucket_request(5, 20_000_000, shaping.NETEM + 1))
    assert bucket["parent"] == 0x20001


def test_shares_of_a_whole_networks_limit() -> None:
    found = read(tcmsg, sharing.queue_request(5))
    assert (found["index"], found["handle"], found["parent"]) == (5, 0x10000, 0xFFFFFFFF)
    assert attribute(found, "TCA_KIND") == "htb"
    start = attribute(found, "TCA_OPTIONS", "TCA_HTB_INIT")
    assert (start["version"], start["defcls"]) == (3, 0)
    found = read(tcmsg, sharing.class_request(5, sharing.WHOLE, 0x10007, 8_000_000, 20_000_000, 50_000))
    assert (found["handle"], found["parent"]) == (0x10007, 0x10001)
    parameters = attribute(found, "TCA_OPTIONS", "TCA_HTB_PARMS")
    assert (parameters["rate"], parameters["ceil"], parameters["quantum"]) == (1_000_000, 2_500_000, 50_000)
    found = read(tcmsg, sharing.bytes_request(5, 0x10007, 100_000))
    assert (found["handle"], found["parent"], attribute(found, "TCA_KIND")) == (0, 0x10007, "bfifo")
    for version, address in ((4, "10.9.0.7"), (6, "fd00:9::7")):
        request = sharing.filter_request(5, 7, version, address, sharing.WHERE["download", version])
        found = read(tcmsg, request)
        assert (found["parent"], attribute(found, "TCA_KIND")) == (0x10000, "u32")
        assert found["info"] >> 16 == 14 + (version == 6)
        assert attribute(found, "TCA_OPTIONS", "TCA_U32_CLASSID") == 0x10007


def test_who_is_in_which_class_as_tc_reads_it(machine: Machine) -> None:
    networks.create("shop", subnet="10.9.0.0/24", subnet6="fd00:9::/64", download="8M", upload="8M")
    start(machine, Join(Endpoint("shop", "10.9.0.7", "fd00:9::a:7")))
    link = networks.get("shop").link
    for name, places in ((link, (16, 24)), (link.replace("-n", "-s"), (12, 8))):
        shown = machine.run("tc", "filter", "show", "dev", name, "parent", "1:")
        assert f"match 0a090007/ffffffff at {places[0]}" in shown
        for count, word in enumerate(("fd000009", "00000000", "00000000", "000a0007")):
            assert f"match {word}/ffffffff at {places[1] + 4 * count}" in shown
        assert shown.count("flowid 1:2") == 2
