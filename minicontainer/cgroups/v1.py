"""Cgroup v1 under v2's names: `group["cpu.max"] = "50000 100000"` where controllers hang on trees of their own.

On v1 and hybrid hosts a group is several directories of the same name, one in each tree that it needs, and a process
is moved into each. v2's files become v1's (the kernel's admin-guide/cgroup-v1/):

    cpu.max        cpu.cfs_quota_us, cpu.cfs_period_us      memory.max       memory.limit_in_bytes
    cpu.weight     cpu.shares (100 is 1024, as the kernel   memory.swap.max  memory.memsw.limit_in_bytes, less the above
                   itself converts)                         memory.events    memory.failcnt, memory.oom_control
    io.max         blkio.throttle.*                         pids.*, cpuset.* the same, but for the …effective files
    io.weight      blkio.bfq.weight                         hugetlb.*.max    hugetlb.*.limit_in_bytes

What v1 cannot do (memory.high, .low, .min, oom.group, …) is a `HostError`: v1's soft limit is no memory.low.
"""

from __future__ import annotations

from minicontainer import linux
from minicontainer.cgroups import units
from minicontainer.cgroups.layout import exists
from minicontainer.cgroups.v2 import make_directory
from minicontainer.errors import ConflictError, HostError
from minicontainer.state import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from minicontainer.cgroups.layout import Layout

_UNLIMITED = 2**63 - 2**20  # v1 says "no limit" with the largest multiple of the page size, whatever that is
_IO_FILES = {
    "rbps": "blkio.throttle.read_bps_device",
    "wbps": "blkio.throttle.write_bps_device",
    "riops": "blkio.throttle.read_iops_device",
    "wiops": "blkio.throttle.write_iops_device",
}
_MEMORY_STAT = {
    "anon": "total_rss",
    "file": "total_cache",
    "shmem": "total_shmem",
    "file_mapped": "total_mapped_file",
    "file_dirty": "total_dirty",
    "file_writeback": "total_writeback",
    "swapcached": "total_swapcached",
    "anon_thp": "total_rss_huge",
    "inactive_anon": "total_inactive_anon",
    "active_anon": "total_active_anon",
    "inactive_file": "total_inactive_file",
    "active_file": "total_active_file",
    "unevictable": "total_unevictable",
    "pgfault": "total_pgfault",
    "pgmajfault": "total_pgmajfault",
}
_SAME = {  # v2 file: v1 file with the same meaning and the same text
    "cpu.idle": "cpu.idle",
    "cpu.max.burst": "cpu.cfs_burst_us",
    "cpuset.cpus": "cpuset.cpus",
    "cpuset.cpus.effective": "cpuset.effective_cpus",
    "cpuset.mems": "cpuset.mems",
    "cpuset.mems.effective": "cpuset.effective_mems",
    "memory.current": "memory.usage_in_bytes",
    "memory.peak": "memory.max_usage_in_bytes",
    "pids.max": "pids.max",
    "pids.current": "pids.current",
    "pids.peak": "pids.peak",
    "pids.events": "pids.events",
}


class V1:
    """The v1 trees of a machine. Groups are named by their path, the same in each tree."""

    def __init__(self, machine: Layout) -> None:
        self.mounts = machine.legacy
        self.trees = list(dict.fromkeys(machine.legacy.values()))

    def has(self, file: str) -> bool:
        """Whether the controller that this v2 file belongs to hangs on one of these trees."""
        return self.controller(file) in self.mounts

    @staticmethod
    def controller(file: str) -> str:
        """v1's name of the controller a v2 file belongs to."""
        name = file.partition(".")[0]
        return {"io": "blkio"}.get(name, name)

    def directories(self, path: str) -> list[str]:
        """The group's directories that exist."""
        return [name for tree in self.trees if exists(name := f"{tree}/{path}")]

    def directory(self, path: str, controller: str) -> str:
        """The group's directory in the tree of a controller."""
        return f"{self.mounts[controller]}/{path}"

    def make(self, path: str, controllers: Iterable[str], *, first: bool) -> None:
        """Make the group in these controllers' trees. `first`: nothing of the group may exist yet (ConflictError)."""
        made: list[str] = []
        try:
            for tree in dict.fromkeys(self.mounts[name] for name in controllers):
                try:
                    make_directory(f"{tree}/{path}", tree)
                    made.append(f"{tree}/{path}")
                except FileExistsError:
                    if first and not made:
                        raise ConflictError(
                            f"there is a cgroup {path} already", hint="another name, or Group.open"
                        ) from None
                if tree == self.mounts.get("cpuset") and "/" in path:
                    self._inherit(path.rpartition("/")[0])
        except BaseException:
            for directory in made:
                linux.rmdir(directory)
            raise

    def settle(self, path: str) -> None:
        """Before a process comes in: a v1 cpuset starts empty and takes nobody."""
        if "cpuset" in self.mounts and exists(self.directory(path, "cpuset")):
            self._inherit(path)

    def add(self, path: str, pid: int) -> None:
        """Move a process, with all its threads, into each of the group's directories."""
        for directory in self.directories(path):
            linux.write(f"{directory}/cgroup.procs", str(pid))

    def read(self, path: str, file: str) -> str:
        """What v2's `file` would say. Raises HostError for what v1 does not have."""
        if file in _SAME:
            return self._get(path, _SAME[file])
        kind, size = _page_size(file)
        reader = _READERS.get(kind)
        if reader is None:
            raise _impossible(file)
        return reader(self, path, size)

    def write(self, path: str, file: str, value: str) -> None:
        """Do what writing v2's `file` would do. Raises HostError for what v1 does not have."""
        if file in _SAME:
            self._put(path, _SAME[file], value)
            return
        kind, size = _page_size(file)
        writer = _WRITERS.get(kind)
        if writer is None:
            raise _impossible(file)
        writer(self, path, value, size)

    def throttling(self, path: str) -> str:
        """v2's lines on throttling in cpu.stat; nothing for a group without a cpu directory."""
        if "cpu" not in self.mounts or not exists(self.directory(path, "cpu")):
            return ""
        stat = units.flat(self._get(path, "cpu.stat"))
        periods, count, time = stat["nr_periods"], stat["nr_throttled"], stat["throttled_time"] // 1000
        return f"nr_periods {periods}\nnr_throttled {count}\nthrottled_usec {time}\n"

    # ------------------------------------------------------------------------------ the files that need arithmetic

    def _get(self, path: str, file: str) -> str:
        return read_file(f"{self.directory(path, file.partition('.')[0])}/{file}")

    def _number(self, path: str, file: str) -> int:
        return int(self._get(path, file))

    def _put(self, path: str, file: str, value: str | int) -> None:
        linux.write(f"{self.directory(path, file.partition('.')[0])}/{file}", str(value))

    def _inherit(self, path: str) -> None:
        for file in ("cpuset.cpus", "cpuset.mems"):
            if not self._get(path, file).strip():
                parent = path.rpartition("/")[0]
                if parent:
                    self._inherit(parent)
                self._put(path, file, self._get(parent, file).strip())

    def _read_cpu_max(self, path: str, _: str) -> str:
        quota = self._number(path, "cpu.cfs_quota_us")
        return f"{'max' if quota < 0 else quota} {self._number(path, 'cpu.cfs_period_us')}\n"

    def _write_cpu_max(self, path: str, value: str, _: str) -> None:
        quota, _, period = value.partition(" ")
        before = self._number(path, "cpu.cfs_period_us")
        if period and int(period) != before:
            # The old quota in the new period could be more than the parent has: EINVAL. None at all never is.
            self._put(path, "cpu.cfs_quota_us", -1)
            self._put(path, "cpu.cfs_period_us", period)
        self._put(path, "cpu.cfs_quota_us", -1 if quota == "max" else quota)

    def _read_cpu_weight(self, path: str, _: str) -> str:
        return f"{max(1, (self._number(path, 'cpu.shares') * 100 + 512) // 1024)}\n"

    def _write_cpu_weight(self, path: str, value: str, _: str) -> None:
        self._put(path, "cpu.shares", (int(value) * 1024 + 50) // 100)  # kernel/sched: sched_weight_from_cgroup()

    def _read_cpu_stat(self, path: str, _: str) -> str:
        text = ""
        if "cpuacct" in self.mounts and exists(self.directory(path, "cpuacct")):
            for name, file in (("usage", "usage"), ("user", "usage_user"), ("system", "usage_sys")):
                text += f"{name}_usec {self._number(path, f'cpuacct.{file}') // 1000}\n"
        return text + self.throttling(path)

    def _read_memory_max(self, path: str, _: str) -> str:
        return f"{_limit(self._number(path, 'memory.limit_in_bytes'))}\n"

    def _write_memory_max(self, path: str, value: str, _: str) -> None:
        with_swap = _limit(self._memsw(path)) if exists(self._memsw_file(path)) else "max"
        if with_swap == "max":
            self._put(path, "memory.limit_in_bytes", -1 if value == "max" else value)
            return
        swap = int(with_swap) - self._number(path, "memory.limit_in_bytes")
        if value == "max":
            raise HostError(
                f"memory.max of {path} cannot be lifted while memory.swap.max is {swap}: v1 limits both or none",
                hint="lift memory.swap.max first",
            )
        total = (int(value) + swap, "memory.memsw.limit_in_bytes")
        steps = [(int(value), "memory.limit_in_bytes"), total]
        for number, file in reversed(steps) if total[0] > int(with_swap) else steps:  # memsw never below memory
            self._put(path, file, number)

    def _memsw_file(self, path: str) -> str:
        return f"{self.directory(path, 'memory')}/memory.memsw.limit_in_bytes"

    def _memsw(self, path: str) -> int:
        if not exists(self._memsw_file(path)):
            raise HostError("this kernel does not account swap", hint="boot with swapaccount=1")
        return self._number(path, "memory.memsw.limit_in_bytes")

    def _read_swap_max(self, path: str, _: str) -> str:
        total = _limit(self._memsw(path))
        return f"{total if total == 'max' else int(total) - self._number(path, 'memory.limit_in_bytes')}\n"

    def _write_swap_max(self, path: str, value: str, _: str) -> None:
        self._memsw(path)
        limit = _limit(self._number(path, "memory.limit_in_bytes"))
        if value != "max" and limit == "max":
            raise HostError(
                f"memory.swap.max of {path} needs a memory.max on v1: it limits swap only together with memory",
                hint="set memory.max first",
            )
        self._put(path, "memory.memsw.limit_in_bytes", -1 if value == "max" else int(limit) + int(value))

    def _read_swap_current(self, path: str, _: str) -> str:
        self._memsw(path)
        used = self._number(path, "memory.memsw.usage_in_bytes") - self._number(path, "memory.usage_in_bytes")
        return f"{max(0, used)}\n"

    def _read_memory_events(self, path: str, _: str) -> str:
        """Whom the kernel killed, and how often the limit was hit: of this very group, that is all v1 counts.

        Where swap is limited too, the limit of both together is asked first, and nobody counts that (seen on 6.18).
        """
        hits = ""
        if not exists(self._memsw_file(path)) or _limit(self._memsw(path)) == "max":
            hits = f"max {self._number(path, 'memory.failcnt')}\n"
        return f"{hits}oom_kill {units.flat(self._get(path, 'memory.oom_control'))['oom_kill']}\n"

    def _read_memory_stat(self, path: str, _: str) -> str:
        stat = units.flat(self._get(path, "memory.stat"))
        return "".join(f"{name} {stat[old]}\n" for name, old in _MEMORY_STAT.items() if old in stat)

    def _read_io_max(self, path: str, _: str) -> str:
        found: dict[str, dict[str, str]] = {}
        for key, file in _IO_FILES.items():
            for line in self._get(path, file).splitlines():
                device, number = line.split()
                found.setdefault(device, {})[key] = number
        return "".join(
            device + "".join(f" {key}={row.get(key, 'max')}" for key in _IO_FILES) + "\n"
            for device, row in found.items()
        )

    def _write_io_max(self, path: str, value: str, _: str) -> None:
        for device, row in units.nested(value).items():
            for key, number in row.items():
                self._put(path, _IO_FILES[key], f"{device} {0 if number == 'max' else number}")

    def _read_io_stat(self, path: str, _: str) -> str:
        rows: dict[str, dict[str, str]] = {}
        for file, unit in (("io_service_bytes", "bytes"), ("io_serviced", "ios")):
            for line in self._get(path, f"blkio.throttle.{file}_recursive").splitlines():
                words = line.split()  # "8:0 Read 4096"; the last line is "Total 4096"
                if len(words) == 3 and words[1] in ("Read", "Write", "Discard"):
                    rows.setdefault(words[0], {})[words[1][0].lower() + unit] = words[2]
        order = ("rbytes", "wbytes", "rios", "wios", "dbytes", "dios")
        return "".join(
            device + "".join(f" {key}={row.get(key, 0)}" for key in order) + "\n" for device, row in rows.items()
        )

    def _read_io_weight(self, path: str, _: str) -> str:
        return f"default {self._bfq(path)}\n"

    def _write_io_weight(self, path: str, value: str, _: str) -> None:
        self._bfq(path)
        number = units.weight(value.removeprefix("default "))
        if int(number) > 1000:
            raise HostError(f"io.weight {number} is more than v1's BFQ knows", hint="1 to 1000 on a v1 host")
        self._put(path, "blkio.bfq.weight", number)

    def _bfq(self, path: str) -> int:
        if not exists(f"{self.directory(path, 'blkio')}/blkio.bfq.weight"):
            raise HostError("v1 has weights for input and output only with the BFQ scheduler", hint="modprobe bfq")
        return self._number(path, "blkio.bfq.weight")

    def _read_hugetlb_max(self, path: str, size: str) -> str:
        return f"{_limit(self._number(path, f'hugetlb.{size}.limit_in_bytes'))}\n"

    def _write_hugetlb_max(self, path: str, value: str, size: str) -> None:
        self._put(path, f"hugetlb.{size}.limit_in_bytes", -1 if value == "max" else value)

    def _read_hugetlb_current(self, path: str, size: str) -> str:
        return self._get(path, f"hugetlb.{size}.usage_in_bytes")

    def _read_hugetlb_events(self, path: str, size: str) -> str:
        return f"max {self._number(path, f'hugetlb.{size}.failcnt')}\n"

    def _read_freeze(self, path: str, _: str) -> str:
        return f"{int(self._get(path, 'freezer.state').strip() != 'THAWED')}\n"

    def _write_freeze(self, path: str, value: str, _: str) -> None:
        self._put(path, "freezer.state", "FROZEN" if value == "1" else "THAWED")


def _limit(number: int) -> str:
    return "max" if number >= _UNLIMITED else str(number)


def _page_size(file: str) -> tuple[str, str]:
    """(`hugetlb.*.max`, `2MB`) for `hugetlb.2MB.max`; any other file as it is."""
    words = file.split(".")
    if words[0] == "hugetlb" and len(words) == 3:
        return f"hugetlb.*.{words[2]}", words[1]
    return file, ""


def _impossible(file: str) -> HostError:
    return HostError(
        f"cgroup v1 has nothing that does what {file} does, and this host's controllers are on v1",
        hint="boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all for cgroup v2",
    )


_READERS: dict[str, Callable[[V1, str, str], str]] = {
    "cgroup.freeze": V1._read_freeze,
    "cpu.max": V1._read_cpu_max,
    "cpu.weight": V1._read_cpu_weight,
    "cpu.stat": V1._read_cpu_stat,
    "memory.max": V1._read_memory_max,
    "memory.swap.max": V1._read_swap_max,
    "memory.swap.current": V1._read_swap_current,
    "memory.events": V1._read_memory_events,
    "memory.stat": V1._read_memory_stat,
    "io.max": V1._read_io_max,
    "io.stat": V1._read_io_stat,
    "io.weight": V1._read_io_weight,
    "hugetlb.*.max": V1._read_hugetlb_max,
    "hugetlb.*.current": V1._read_hugetlb_current,
    "hugetlb.*.events": V1._read_hugetlb_events,
}

_WRITERS: dict[str, Callable[[V1, str, str, str], None]] = {
    "cgroup.freeze": V1._write_freeze,
    "cpu.max": V1._write_cpu_max,
    "cpu.weight": V1._write_cpu_weight,
    "memory.max": V1._write_memory_max,
    "memory.swap.max": V1._write_swap_max,
    "io.max": V1._write_io_max,
    "io.weight": V1._write_io_weight,
    "hugetlb.*.max": V1._write_hugetlb_max,
}
