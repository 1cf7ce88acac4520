"""What people write, and what the kernel's files take: `64M` is 67108864 bytes, `0.5` CPUs are 50000 µs of each 100000.

The kernel's files have each a small language of its own (cgroups(7), the kernel's admin-guide/cgroup-v2.rst): bytes or
`max`, quota and period, `MAJ:MIN rbps=…`. Everything here turns one wish into that language, or raises a `UsageError`
that says what would have been right. Nothing here asks the kernel, so it is the same on every host.
"""

from __future__ import annotations

from minicontainer.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PERIOD = 100_000
"""Microseconds: the kernel's default for cpu.max, and Docker's."""

_POWERS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE_HINT = "a number with an optional suffix b, k, m, g or t (powers of 1024: 64M, 1.5g, 512KiB), or max for no limit"
_BYTES = ("memory.max", "memory.high", "memory.low", "memory.min", "memory.swap.max", "memory.swap.high")


def size(value: str | int) -> int:
    """Bytes: `67108864`, `64M`, `64m`, `64MB`, `64MiB`, `1.5g`. Suffixes are powers of 1024, as Docker's are."""
    text = str(value).strip().lower()
    number = text.rstrip("bkmgti")
    suffix = text[len(number) :]
    for ending in ("ib", "b"):
        if len(suffix) > len(ending) and suffix.endswith(ending):
            suffix = suffix[: -len(ending)]
            break
    amount = _number(number)
    if amount is None or suffix not in _POWERS or amount < 0:
        raise UsageError(f"{value!r} is not a size", hint=_SIZE_HINT)
    whole = int(number) if number.isdigit() else amount
    return int(whole * 1024 ** _POWERS[suffix])


def bytes_or_max(value: str | int) -> str:
    """What a memory file takes: bytes in digits, or `max` (also for -1, as Docker has it)."""
    return "max" if str(value).strip() in ("max", "-1") else str(size(value))


def cpu_max(cpus: str | float) -> str:
    """cpu.max for so many CPUs: 0.5 is `50000 100000`. From 0.01 on: the kernel's least quota is 1 ms."""
    if cpus == "max":
        return f"max {PERIOD}"
    number = _number(str(cpus).strip())
    if number is None or not 0.01 <= number <= 1_000_000:
        raise UsageError(f"{cpus!r} is no number of CPUs", hint="at least 0.01, such as 0.5 or 2, or max for no limit")
    return f"{round(number * PERIOD)} {PERIOD}"


def weight(value: str | int) -> str:
    """cpu.weight and io.weight: 1 to 10000; a group that says nothing has 100."""
    number = _whole(value)
    if number is None or not 1 <= number <= 10_000:
        raise UsageError(f"{value!r} is no weight", hint="a whole number from 1 to 10000; the default is 100")
    return str(number)


def count_or_max(value: str | int) -> str:
    """pids.max: at least 1, or `max` (also for -1, as Docker has it)."""
    if str(value).strip() in ("max", "-1"):
        return "max"
    number = _whole(value)
    if number is None or number < 1:
        raise UsageError(f"{value!r} is no number of processes", hint="a whole number from 1 on, or max for no limit")
    return str(number)


def number_list(value: str | int | Iterable[int]) -> str:
    """cpuset.cpus and cpuset.mems: `0-2,4`, or the numbers themselves."""
    text = value if isinstance(value, str) else ",".join(map(str, [value] if isinstance(value, int) else value))
    for item in text.strip().split(","):
        first, dash, last = item.partition("-")
        if not first.isdigit() or (dash and (not last.isdigit() or int(last) < int(first))):
            raise UsageError(f"{value!r} is no list of CPUs or memory nodes", hint="numbers and ranges, such as 0-2,4")
    return text.strip()


def cpu_set(text: str) -> set[int]:
    """The numbers behind `0-2,4`, as `os.sched_getaffinity` gives them."""
    numbers: set[int] = set()
    for item in text.strip().split(","):
        if item:
            first, _, last = item.partition("-")
            numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def io_max(devices: Mapping[str, Mapping[str, str | int]]) -> str:
    """io.max, a line for each device: `{"/dev/sda": {"wbps": "10M", "riops": 100}}` is `8:0 wbps=10485760 riops=100`.

    rbps and wbps are bytes a second, riops and wiops operations a second. A device is a path or `MAJ:MIN`; for a
    partition the limit is its disk's, because that is where the kernel's requests queue.
    """
    lines = []
    for name, limits in devices.items():
        words = [device(name)]
        for key, value in limits.items():
            if key not in ("rbps", "wbps", "riops", "wiops"):
                raise UsageError(f"io.max has no {key!r}", hint="rbps, wbps (bytes/s), riops, wiops (operations/s)")
            words.append(f"{key}={bytes_or_max(value)}")
        if len(words) == 1:
            raise UsageError(f"io_max names no limit for {name}", hint="such as {'wbps': '10M'}")
        lines.append(" ".join(words))
    return "\n".join(lines)


def device(name: str) -> str:
    """`MAJ:MIN` of a block device given by path or by its numbers; of the whole disk, where it is a partition."""
    import os
    import stat

    major, _, minor = name.partition(":")
    if not (major.isdigit() and minor.isdigit()):
        try:
            found = os.stat(name)
        except OSError as error:
            raise UsageError(f"{name!r} is no block device: {error.strerror}", hint="such as /dev/sda or 8:0") from None
        if not stat.S_ISBLK(found.st_mode):
            raise UsageError(f"{name!r} is no block device", hint="such as /dev/sda or 8:0 (see lsblk)")
        name = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    if os.path.exists(f"/sys/dev/block/{name}/partition"):
        with open(f"/sys/dev/block/{name}/../dev") as file:
            return file.read().strip()
    return name


def for_file(file: str, value: str | int) -> str:
    """What `group[file] = value` writes: a checked value for the files that this chapter knows, any other as it is."""
    if file in _BYTES or (file.startswith("hugetlb.") and file.endswith(".max")):
        return bytes_or_max(value)
    if file == "pids.max":
        return count_or_max(value)
    if file == "cpu.weight":
        return weight(value)
    if file in ("cpuset.cpus", "cpuset.mems"):
        return number_list(str(value))
    if file == "cpu.max":
        return _quota(str(value))
    return str(value)


def flat(text: str) -> dict[str, int]:
    """The kernel's "flat keyed" files: one name and number a line."""
    return {name: int(number) for name, _, number in (line.partition(" ") for line in text.splitlines())}


def nested(text: str) -> dict[str, dict[str, str]]:
    """The kernel's "nested keyed" files: `8:0 rbytes=1 wbytes=2` a line."""
    table = {}
    for line in text.splitlines():
        key, *pairs = line.split()
        table[key] = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    return table


def _quota(text: str) -> str:
    words = text.split()
    if not 1 <= len(words) <= 2 or not (words[0] == "max" or words[0].isdigit()) or not words[-1].isalnum():
        raise UsageError(f"{text!r} is no value for cpu.max", hint="QUOTA PERIOD in microseconds: 50000 100000, or max")
    if len(words) == 2 and not words[1].isdigit():
        raise UsageError(f"{words[1]!r} is no period", hint="microseconds from 1000 to 1000000, such as 100000")
    return text


def _number(text: str) -> float | None:
    whole, point, fraction = text.partition(".")
    if not (whole + fraction).isdecimal() or not (whole + fraction).isascii() or (point and not fraction):
        return None
    return float(text)


def _whole(value: str | int) -> int | None:
    text = str(value).strip()
    return int(text) if text.isdecimal() and text.isascii() else None
