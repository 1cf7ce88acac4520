"""Which devices a container may open: by v1's lists, by v2's program, and beside runc."""

from __future__ import annotations

import errno
import os
import stat

import compiled
import peers
import pytest

from minicontainer import state
from minicontainer.cgroups import Cgroup, layout
from minicontainer.chroot import PivotRoot
from minicontainer.container import Container, Host, Part
from minicontainer.errors import UsageError
from minicontainer.namespaces import Namespaces
from minicontainer.security import Capabilities, Devices
from minicontainer.security.device_rules import DEFAULT, NOTHING, Allowed, limit_v1, limit_v2

VIEWS = ("pid", "uts", "ipc", "mount", "network", "cgroup")
OPEN = """
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
int main(int argc, char **argv) {        /* "c,1,3,r": the errno of mknod (m) or of opening it (r, w, x for both) */
    for (int i = 1; i < argc; i++) {
        char kind, how; int major, minor, result = 0;
        sscanf(argv[i], "%c,%d,%d,%c", &kind, &major, &minor, &how);
        unlink("/tmp/node");
        errno = 0;
        if (mknod("/tmp/node", (kind == 'b' ? S_IFBLK : S_IFCHR) | 0666, makedev(major, minor)) == 0 && how != 'm')
            result = open("/tmp/node", (how == 'r' ? O_RDONLY : how == 'w' ? O_WRONLY : O_RDWR) | O_NONBLOCK);
        printf("%d\\n", result < 0 || errno ? errno : 0);
    }
    unlink("/tmp/node");
    return 0;
}
"""
NODES = [
    "c,1,3",
    "c,1,5",
    "c,1,7",
    "c,1,8",
    "c,1,9",
    "c,1,1",
    "c,1,11",
    "c,5,2",
    "c,10,200",
    "c,10,229",
    "b,7,0",
    "b,1,3",
]
ASKED = [f"{node},{how}" for node in NODES for how in "mrwx"]


def answers(rootfs: str, *parts: Part) -> dict[str, int]:
    compiled.build(OPEN, f"{rootfs}/bin/nodes")
    argv = ["/bin/nodes", *ASKED]
    text = Container(argv, Namespaces(*VIEWS), Cgroup(), PivotRoot(rootfs), Capabilities(), *parts).output()
    return dict(zip(ASKED, map(int, text.split()), strict=True))


def refused(found: dict[str, int]) -> set[str]:
    return {asked for asked, number in found.items() if number == errno.EPERM}


@pytest.mark.lab
def test_any_node_may_be_made_and_only_the_harmless_opened(rootfs: str) -> None:
    found = answers(rootfs, Devices())
    assert {asked for asked in ASKED if asked.endswith("m")}.isdisjoint(refused(found))
    for node in ("c,1,1", "c,1,11", "b,7,0", "b,1,3", "c,10,229"):  # memory, the kernel's log, a disk, fuse
        assert {f"{node},{how}" for how in "rwx"} <= refused(found)
    for node in ("c,1,3", "c,1,5", "c,1,9"):
        assert not {f"{node},{how}" for how in "rwx"} & refused(found)
    free = answers(rootfs)
    assert refused(free) <= {"c,1,11,r", "c,1,11,x"}  # the kernel's log wants CAP_SYSLOG


def test_runc_refuses_the_same(rootfs: str) -> None:
    compiled.build(OPEN, f"{rootfs}/bin/nodes")
    config = peers.spec(rootfs, ["/bin/nodes", *ASKED])
    words = ["CAP_MKNOD", "CAP_CHOWN", "CAP_DAC_OVERRIDE"]
    config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), words)
    config["linux"]["resources"]["devices"] = [
        {"allow": False, "access": "rwm"},
        *({"allow": True, "type": "c", "major": 1, "minor": minor, "access": "rwm"} for minor in (3, 8, 11)),
        {"allow": True, "type": "c", "major": 10, "access": "r"},
        {"allow": True, "type": "b", "major": 7, "minor": 0, "access": "rm"},
    ]
    theirs = dict(zip(ASKED, map(int, peers.run("runc", config).split()), strict=True))
    rules = [Allowed.parse(rule) for rule in config["linux"]["resources"]["devices"]]
    # runc always allows the default devices and all of mknod; this version tunnels too
    ours = answers(rootfs, Devices(rules=[*DEFAULT, Allowed(True, "c", 10, 200), *rules[1:]]))
    assert refused(ours) == refused(theirs)


RULES: dict[str, list[Allowed]] = {
    "nothing": [NOTHING],
    "everything": [Allowed(True)],
    "one": [NOTHING, Allowed(True, "c", 1, 3)],
    "only reading": [NOTHING, Allowed(True, "c", 1, 3, "rm"), Allowed(True, "b", None, None, "m")],
    "a major": [NOTHING, Allowed(True, "c", 1), Allowed(True, "b", 7, None, "rw")],
    "all but one": [Allowed(True), Allowed(False, "c", 1, 3)],
    "default": DEFAULT,
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_v1_and_v2_answer_alike(rootfs: str, rules: list[Allowed]) -> None:
    machine = layout()
    if not machine.unified or "devices" not in machine.legacy:
        pytest.skip("only a hybrid host has both")
    compiled.build(OPEN, f"{rootfs}/bin/nodes")

    found = []
    for way in ("v1", "v2"):
        part = ByOneWay(way, rules)
        container = Container(["/bin/nodes", *ASKED], Namespaces(*VIEWS), Cgroup(), PivotRoot(rootfs), part)
        found.append(refused(dict(zip(ASKED, map(int, container.output().split()), strict=True))))
    assert found[0] == found[1]


class ByOneWay(Part):
    """The rules by v1's lists, or by v2's program."""

    def __init__(self, way: str, rules: list[Allowed]) -> None:
        self.way, self.rules = way, rules

    def prepare(self, host: Host) -> None:
        cgroup = host.find(Cgroup)
        assert cgroup is not None
        if self.way == "v1":
            limit_v1(cgroup.group.tree("devices"), self.rules)
        else:
            limit_v2(cgroup.group.unified(), self.rules)


def test_a_device_of_the_host_is_handed_in(rootfs: str) -> None:
    argv = [
        "sh",
        "-c",
        "stat -c '%t %T %F' /dev/random-of-the-host /dev/zero; head -c 3 /dev/random-of-the-host | wc -c",
    ]
    text = Container(
        argv, Namespaces(*VIEWS), Cgroup(), PivotRoot(rootfs), Devices("/dev/urandom:/dev/random-of-the-host:r")
    ).output()
    assert text.splitlines() == ["1 9 character special file", "1 5 character special file", "3"]


def test_privileged_has_all_of_them(rootfs: str) -> None:
    argv = ["sh", "-c", "cd /dev; ls"]
    text = Container(argv, Namespaces(*VIEWS), Cgroup(), PivotRoot(rootfs), Devices(everything=True)).output()
    nodes = {name for name in os.listdir("/dev") if stat.S_ISBLK(os.lstat(f"/dev/{name}").st_mode)}
    assert nodes <= set(text.split())


def test_what_makes_no_sense_is_refused_at_once(rootfs: str) -> None:
    for text in ("/dev/none", "/etc/passwd", "/dev/null:/dev/null:rwx"):
        with pytest.raises(UsageError):
            Devices(text)
    with pytest.raises(UsageError, match="Cgroup"):
        Container(["true"], PivotRoot(rootfs), Devices()).run()


def test_nothing_of_it_stays(rootfs: str) -> None:
    container = Container(["true"], Namespaces("pid"), Cgroup(), PivotRoot(rootfs), Devices())
    assert container.run() == 0
    assert not any(
        os.path.exists(f"{tree}/{state.instance()}/{container.id}")
        for tree in (layout().unified, *layout().legacy.values())
    )
