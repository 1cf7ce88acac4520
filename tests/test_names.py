"""Names: what the server of a network answers, held against dig and dnslib; and what it does with hostile messages."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import dnslib  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joins import eventually, six, start

from minicontainer import linux
from minicontainer.container import Container
from minicontainer.errors import ConflictError
from minicontainer.network import Endpoint, Join, connecting, definition, dns, networks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from networks import Machine, Place

pytest_plugins = ["networks"]


def server(machine: Machine, place: Place) -> str:
    """The first name server in the container's resolv.conf."""
    root = f"{os.environ['MINICONTAINER_DATA_ROOT']}/containers/{place.container.id}/resolv.conf"  # type: ignore[attr-defined]
    (first, *_) = re.findall(r"(?m)^nameserver (\S+)$", Path(root).read_text())
    return str(first)


def dig(machine: Machine, place: Place, *question: str) -> list[str]:
    """What dig, run in the container, hears; sorted."""
    at = server(machine, place)
    return sorted(place.run("dig", f"@{at}", "+short", "+tries=1", "+time=3", *question).split())


def status(machine: Machine, place: Place, *question: str) -> str:
    heard = place.run("dig", f"@{server(machine, place)}", "+tries=1", "+time=5", *question)
    (found,) = re.findall(r"status: (\w+)", heard)
    return str(found)


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_members_are_known_by_name_id_and_alias_forward_and_reverse(machine: Machine, transport: str) -> None:
    networks.create("shop", ipv6=True)
    one = start(machine, Join("shop"), name="one")
    two = start(machine, Join(Endpoint("shop", aliases=["store"]), aliases=["Web"]), name="two")
    short = two.container.id[:12]  # type: ignore[attr-defined]
    for name in ("two", "TWO", "two.shop", "web", "store", "store.shop", short, f"{short}.shop"):
        assert dig(machine, one, transport, name, "A") == [two.address], name
        assert dig(machine, one, transport, name, "AAAA") == [six(two)], name
        assert status(machine, one, transport, name, "MX") == "NOERROR"
    assert dig(machine, one, transport, "-x", two.address) == ["two.shop."]
    assert dig(machine, one, transport, "-x", six(two)) == ["two.shop."]
    assert dig(machine, one, transport, "one") == [one.address], "and it knows itself"
    for unknown in (ipaddress.ip_address(two.address) + 9, ipaddress.ip_address(six(two)) + 9):
        heard = status(machine, one, transport, "-x", str(unknown))
        assert heard == "NXDOMAIN", "nobody outside is asked about our addresses"


def test_programs_in_a_container_find_each_other_by_name(machine: Machine, rootfs: str) -> None:
    from minicontainer.chroot import PivotRoot
    from minicontainer.namespaces import Namespaces

    networks.create("shop")
    two = start(machine, Join("shop", aliases=["web"]), name="two")
    for name in ("two", "web", "two.shop"):
        parts = [Namespaces("mount", "pid"), PivotRoot(rootfs), Join("shop")]
        heard = Container(["busybox", "nslookup", name], *parts).output(timeout=30)
        assert two.address in heard


def test_name_of_a_container_that_ended_is_gone_at_once(machine: Machine) -> None:
    networks.create("shop")
    one, two = start(machine, Join("shop"), name="one"), start(machine, Join("shop"), name="two")
    assert dig(machine, one, "two") == [two.address]
    address = two.address
    machine.end(two)
    assert dig(machine, one, "two") == []
    assert status(machine, one, "-x", address) == "NXDOMAIN"
    again = start(machine, Join("shop"), name="two")
    assert dig(machine, one, "two") == [again.address]


def test_several_containers_of_one_name_take_turns(machine: Machine) -> None:
    networks.create("shop")
    one = start(machine, Join("shop"))
    pool = {start(machine, Join("shop", aliases=["web"])).address for _ in range(3)}
    at = server(machine, one)
    answers = [tuple(one.run("dig", f"@{at}", "+short", "web").split()) for _ in range(6)]
    assert {frozenset(answer) for answer in answers} == {frozenset(pool)}
    assert {answer[0] for answer in answers} == pool, "each is the first of some answer"


def test_asker_hears_of_his_own_networks_only(machine: Machine) -> None:
    networks.create("front")
    networks.create("back")
    front = start(machine, Join("front"), name="front1")
    back = start(machine, Join("back"), name="back1")
    both = start(machine, Join("front", "back"), name="both1")
    assert dig(machine, front, "back1") == dig(machine, back, "front1") == []
    assert dig(machine, front, "both1") == [both.address]
    assert dig(machine, both, "front1") == [front.address]
    assert dig(machine, both, "back1") == [back.address], "its first server knows of its other network"
    connecting.connect(front.container.id, Endpoint("back", aliases=["late"]))  # type: ignore[attr-defined]
    assert dig(machine, front, "back1") == [back.address]
    assert len(dig(machine, back, "late")) == 1
    connecting.disconnect(front.container.id, "back")  # type: ignore[attr-defined]
    assert dig(machine, front, "back1") == dig(machine, back, "late") == []


def test_large_answers_are_cut_by_udp_and_whole_by_tcp(machine: Machine) -> None:
    networks.create("shop", ipv6=True)
    one = start(machine, Join("shop"))
    with networks.locked():  # forty members without containers
        network = networks.get("shop")
        for number in range(40):
            network.reserve(f"{number:064x}", "", "", definition.Member("", names=["crowd"]))
        network.save()
    try:
        at = server(machine, one)
        cut = one.run("dig", f"@{at}", "+notcp", "+ignore", "+noedns", "crowd", "AAAA")
        assert re.search(r"flags:[^;]*\btc\b", cut)
        assert "MSG SIZE  rcvd: 2" in cut, "no part of the answer, only the question"
        assert len(one.run("dig", f"@{at}", "+short", "+noedns", "crowd", "AAAA").split()) == 40, (
            "dig asked again by TCP"
        )
        whole = one.run("dig", f"@{at}", "+notcp", "+bufsize=4096", "crowd", "A")
        assert ";; Truncated" not in whole
        assert len(re.findall(r"(?m)^crowd\.\s", whole)) == 40, "EDNS lets a larger one through"
    finally:
        with networks.locked():
            network = networks.get("shop")
            for number in range(40):
                del network.members[f"{number:064x}"]
            network.save()


@pytest.fixture
def own_resolver(machine: Machine) -> Iterator[Callable[[str], None]]:
    """A resolver of the host's, on an address that only the host can reach; and mounts of our own, in which
    /etc/resolv.conf names it."""
    before, here = os.open("/proc/self/ns/mnt", os.O_RDONLY), os.getcwd()
    linux.unshare(linux.CLONE_NEWNS)
    try:
        linux.mount("", "/", "", linux.MS_REC | linux.MS_PRIVATE)
        resolv = Path(os.environ["MINICONTAINER_DATA_ROOT"]).parent / "resolv.conf"
        resolv.write_text("nameserver 127.0.0.53\n")
        machine.run("mount", "--bind", str(resolv), "/etc/resolv.conf")

        def serve(records: str) -> None:
            command = ["dnsmasq", "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", "--listen-address=127.0.0.53"]
            command += ["--bind-interfaces", "--pid-file=", *records.split()]
            machine.processes.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=machine.environment)
            )
            assert eventually(lambda: "127.0.0.53:53" in machine.run("ss", "-Huln"))

        yield serve
    finally:
        linux.setns(before, linux.CLONE_NEWNS)
        os.close(before)
        os.chdir(here)


def test_other_names_go_to_the_hosts_resolvers(machine: Machine, own_resolver: Callable[[str], None]) -> None:
    many = " ".join(f"--host-record=many.example,192.0.2.{n}" for n in range(1, 60))
    own_resolver(f"--host-record=www.example,192.0.2.9,2001:db8::9 {many} --local=/example/")
    networks.create("shop")
    networks.create("inside", internal=True)
    one = start(machine, Join("shop"), name="one")
    for transport in ("+notcp", "+tcp"):
        assert dig(machine, one, transport, "www.example") == ["192.0.2.9"]
        assert dig(machine, one, transport, "www.example", "AAAA") == ["2001:db8::9"]
        assert dig(machine, one, transport, "-x", "192.0.2.9") == ["www.example."]
        assert status(machine, one, transport, "nothing.example") == "NXDOMAIN"
    assert len(dig(machine, one, "many.example")) == 59, "cut by UDP, whole by TCP"
    hidden = start(machine, Join("inside"), name="hidden")
    assert status(machine, hidden, "secret-in-a-question.www.example") == "REFUSED"
    assert dig(machine, hidden, "hidden") == [hidden.address]
    resolver = machine.processes.pop()
    resolver.kill()
    resolver.communicate()
    assert status(machine, one, "www.example") == "SERVFAIL"


def test_the_next_member_comes_as_soon_as_the_last_has_left(machine: Machine) -> None:
    networks.create("shop")
    for _ in range(8):  # a server that was killed holds its port until it has ended
        machine.end(start(machine, Join("shop")))


def test_port_53_of_the_gateway_taken_is_an_error_that_names_the_program(machine: Machine) -> None:
    networks.create("shop")
    holder = machine.serve("udp", 53, "a name server")
    before = machine.view()
    with pytest.raises(ConflictError, match=rf"port 53/udp of 10\.\S+ is python\S* \(process {holder.pid}\)'s"):
        start(machine, Join("shop"))
    assert machine.view()["links"] == before["links"]
    assert networks.get("shop").members == {}


LABELS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=63)


@given(st.lists(LABELS, min_size=1, max_size=3), st.sampled_from(["A", "AAAA", "PTR"]), st.integers(0, 65535))
@settings(deadline=None)
def test_questions_are_read_and_answered_as_dnslib_has_them(labels: list[str], kind: str, number: int) -> None:
    asked = dnslib.DNSRecord.question(".".join(labels), kind)
    asked.header.id = number
    asked.add_ar(dnslib.EDNS0(udp_len=1400))
    question = dns.Question(asked.pack())
    assert question.name == ".".join(labels).lower()
    assert (question.id, question.type, question.limit) == (number, getattr(dnslib.QTYPE, kind), dns.LARGEST)
    value = {"A": bytes([10, 9, 0, 7]), "AAAA": bytes(range(16)), "PTR": dns.wire_name("two.shop")}[kind]
    heard = dnslib.DNSRecord.parse(dns.answer(question, [value, value]))
    assert (heard.header.id, heard.header.qr, heard.header.aa, heard.header.rcode) == (number, 1, 1, 0)
    assert heard.q.qname == asked.q.qname
    shown = {"A": "10.9.0.7", "AAAA": "1:203:405:607:809:a0b:c0d:e0f", "PTR": "two.shop."}[kind]
    assert [str(rr.rdata) for rr in heard.rr] == [shown, shown]
    assert {str(rr.rname) for rr in heard.rr} == {str(asked.q.qname)}
    cut = dnslib.DNSRecord.parse(dns.answer(question, [value] * 100, limit=200))
    assert (cut.header.tc, cut.rr) == (1, [])


@given(st.binary(max_size=600))
@settings(deadline=None, max_examples=2000)
def test_no_message_whatever_breaks_the_reader(data: bytes) -> None:
    try:
        question = dns.Question(data)
    except dns.Malformed:
        refusal = dns.refusal(data, dns.FORMERR)
        assert refusal is None or (refusal[:2] == data[:2] and len(refusal) == 12)
        return
    assert len(dns.answer(question, [bytes(4)])) <= len(data) + 16


@given(st.data())
@settings(deadline=None, max_examples=500)
def test_no_damaged_question_breaks_the_reader(data: st.DataObject) -> None:
    whole = bytearray(dnslib.DNSRecord.question("two.shop", "A").pack())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    message = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        dns.Question(message)
    except dns.Malformed:
        dns.refusal(message, dns.FORMERR)


@pytest.mark.parametrize(
    "question",
    [
        b"\xc0\x0c",  # a name that points to itself
        b"\x3f" + b"a" * 63 + b"\xc0\x0c",
        b"\x40" + b"a" * 64 + b"\0",
        b"\x03two",
        (b"\x3f" + b"a" * 63) * 5 + b"\0",
        b"\x03two\x00\x00",
    ],
)
def test_hostile_names_are_malformed(question: bytes) -> None:
    data = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + question
    with pytest.raises(dns.Malformed):
        dns.Question(data + (b"\0\1\0\1" if len(question) > 6 else b""))


def test_server_goes_on_with_what_it_knows_when_a_file_is_damaged(machine: Machine) -> None:
    networks.create("shop")
    networks.create("other")
    one = start(machine, Join("shop"), name="one")
    assert dig(machine, one, "one") == [one.address]
    for text in ("{", '{"driver": "bridge"}'):
        Path(networks.path("other")).write_text(text)
        assert dig(machine, one, "one") == [one.address]
    os.unlink(networks.path("other"))
    two = start(machine, Join("shop"), name="two")
    assert dig(machine, one, "two") == [two.address]


def test_server_lives_through_garbage_and_never_answers_an_answer(machine: Machine) -> None:
    networks.create("shop")
    one = start(machine, Join("shop"), name="one")
    gateway = networks.get("shop").gateway
    question = dnslib.DNSRecord.question("one", "A").pack()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((gateway, 53))
        asking.settimeout(5)
        for length in range(200):
            asking.send(os.urandom(length))
        asking.send(bytes([question[0], question[1], question[2] | 0x80]) + question[3:])
        asking.send(question[:-1])
        while True:  # what it says to garbage comes first
            heard = asking.recv(4096)
            if heard[:2] == question[:2]:
                break
        assert heard[3] & 15 == dns.FORMERR, "the cut one was refused, the one that is an answer was not answered"
    for piece in (b"", b"\0", b"\xff\xff" + bytes(70000), b"\0\5hello", b"\0\0"):
        with socket.create_connection((gateway, 53), timeout=5) as stream:
            stream.sendall(piece)
    idle = [socket.create_connection((gateway, 53), timeout=5) for _ in range(100)]
    assert dig(machine, one, "one") == [one.address]
    for stream in idle:
        stream.close()
