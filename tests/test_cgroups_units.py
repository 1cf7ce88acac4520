"""What people write becomes what the kernel's files take, or an error that says what would have been right."""

from __future__ import annotations

import pytest

from minicontainer.cgroups import Cgroup, units
from minicontainer.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (4096, 4096),
        ("67108864", 64 << 20),
        ("64M", 64 << 20),
        ("64m", 64 << 20),
        ("64MB", 64 << 20),
        ("64MiB", 64 << 20),
        (" 64 m".replace(" ", ""), 64 << 20),
        ("512k", 512 << 10),
        ("1g", 1 << 30),
        ("1.5g", 3 << 29),
        ("2T", 2 << 40),
        ("100b", 100),
        ("9007199254740993", 9007199254740993),  # not through a float
    ],
)
def test_sizes_are_powers_of_1024_as_docker_reads_them(text: str | int, size: int) -> None:
    assert units.size(text) == size


@pytest.mark.parametrize("text", ["banana", "", "M", "-64M", "64X", "1e3", "64 M M", "0x40", "٣", "1.", "nan", "inf"])
def test_a_size_that_is_none_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        units.bytes_or_max(text)
    assert repr(text) in str(caught.value)
    assert "64M" in caught.value.hint


def test_no_limit_is_max_or_minus_one() -> None:
    assert units.bytes_or_max("max") == units.bytes_or_max(-1) == units.count_or_max("-1") == "max"


@pytest.mark.parametrize(
    ("cpus", "text"),
    [
        (0.5, "50000 100000"),
        ("0.5", "50000 100000"),
        (2, "200000 100000"),
        (0.01, "1000 100000"),
        ("max", "max 100000"),
    ],
)
def test_cpus_become_quota_and_period(cpus: str | float, text: str) -> None:
    assert units.cpu_max(cpus) == text


@pytest.mark.parametrize("cpus", ["banana", 0, -1, "0.001", float("nan"), float("inf"), "", "1,5"])
def test_cpus_that_make_no_sense_are_refused(cpus: str | float) -> None:
    with pytest.raises(UsageError, match=r"0\.5"):
        units.cpu_max(cpus)


def test_cpu_lists() -> None:
    assert units.number_list("0-2,4") == "0-2,4"
    assert units.number_list([0, 3]) == "0,3"
    assert units.cpu_set("0-2,4\n") == {0, 1, 2, 4}
    for wrong in ("banana", "2-0", "0,,1", "", "-1", "0-"):
        with pytest.raises(UsageError, match="0-2,4"):
            units.number_list(wrong)


@pytest.mark.parametrize(
    "wish",
    [
        {"memory": "banana"},
        {"swap": "x"},
        {"cpus": "many"},
        {"cpu_weight": 0},
        {"cpu_weight": 10_001},
        {"io_weight": "heavy"},
        {"cpuset": "all"},
        {"pids": 0},
        {"pids": "1.5"},
        {"hugetlb": {"2MB": "much"}},
        {"io_max": {"/dev/null": {"wbps": "1M"}}},
        {"io_max": {"/nowhere": {"wbps": "1M"}}},
        {"io_max": {"8:0": {"speed": "1M"}}},
        {"io_max": {"8:0": {}}},
        {"limits": {"cpu.max": "half"}},
        {"limits": {"cpu.max": "1 2 3"}},
        {"limits": {"pids.max": "few"}},
    ],
)
def test_a_container_with_a_limit_that_makes_no_sense_is_not_even_described(wish: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Cgroup(**wish)  # type: ignore[arg-type]


def test_the_part_speaks_cgroup_v2() -> None:
    part = Cgroup(
        memory="64M", swap=0, cpus=0.5, cpuset=[0], pids=9, io_max={"7:0": {"wbps": "1M"}}, hugetlb={"2MB": 0}
    )
    assert part.limits == {
        "memory.max": "67108864",
        "memory.swap.max": "0",
        "cpu.max": "50000 100000",
        "cpuset.cpus": "0",
        "pids.max": "9",
        "io.max": "7:0 wbps=1048576",
        "hugetlb.2MB.max": "0",
    }
