# Wrong answers to lab 04: each stands in the exercise's place, and the check has to say why it is wrong.
# A cell begins with "# %% NAME: what is wrong about it"; "# says: " is a regular expression of what the check says.

# %% small_group: the limit is forgotten
# says: its pids.max is max
def small_group(directory, most):
    linux.mkdir(directory)
    linux.write(f"{directory}/cgroup.procs", str(os.getpid()))


# %% small_group: nobody is in it
# says: is not in the group's cgroup.procs
def small_group(directory, most):
    linux.mkdir(directory)
    linux.write(f"{directory}/pids.max", str(most))


# %% small_group: one more, for the process itself
# says: its pids.max is 6
def small_group(directory, most):
    linux.mkdir(directory)
    linux.write(f"{directory}/pids.max", str(most + 1))
    linux.write(f"{directory}/cgroup.procs", str(os.getpid()))


# %% small_group: a plain directory with plain files
# says: no group at the directory that was asked for
def small_group(directory, most):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name, value in (("pids.max", most), ("cgroup.procs", os.getpid())):
            with open(f"{folder}/{name}", "w") as file:
                file.write(str(value))


# %% small_group: what is used in place of what is allowed
# says: small_group raised .*(EINVAL|EACCES|EPERM|Invalid|Permission)
def small_group(directory, most):
    linux.mkdir(directory)
    linux.write(f"{directory}/pids.current", str(most))
    linux.write(f"{directory}/cgroup.procs", str(os.getpid()))


# %% give_cpus: percent
# says: give_cpus raised .*cpu.max|cpu.max is
def give_cpus(group, cpus):
    group["cpu.max"] = f"{round((cpus or 1) * 100)} 100000"


# %% give_cpus: milliseconds
# says: give_cpus raised .*cpu.max|cpu.max is
def give_cpus(group, cpus):
    group["cpu.max"] = "max 100000" if cpus is None else f"{max(1000, round(cpus * 100))} 100000"


# %% give_cpus: never more than the period
# says: '100000 100000' for 2 CPUs
def give_cpus(group, cpus):
    group["cpu.max"] = "max 100000" if cpus is None else f"{min(100_000, round(cpus * 100_000))} 100000"


# %% give_cpus: no limit is one CPU
# says: cpu.max is '100000 100000' after None
def give_cpus(group, cpus):
    group["cpu.max"] = f"{round((cpus or 1) * 100_000)} 100000"


# %% give_cpus: the weight
# says: cpu.max is 'max 100000' for 0.5 CPUs
def give_cpus(group, cpus):
    group["cpu.weight"] = 100 if cpus is None else round(cpus * 100)


# %% report: microseconds
# says: of a throttled group you say cpu=\d{4,}
def report(group):
    cpu = dict(line.split() for line in group["cpu.stat"].splitlines())
    events = dict(line.split() for line in group["memory.events"].splitlines())
    periods = int(cpu["nr_periods"])
    part = int(cpu["nr_throttled"]) / periods if periods else 0
    return {"cpu": int(cpu["usage_usec"]), "throttled": part, "oom_kills": int(events["oom_kill"])}


# %% report: a count and not a part
# says: you say throttled=\d+\b
def report(group):
    cpu = dict(line.split() for line in group["cpu.stat"].splitlines())
    events = dict(line.split() for line in group["memory.events"].splitlines())
    kills = int(events["oom_kill"])
    return {"cpu": int(cpu["usage_usec"]) / 1e6, "throttled": int(cpu["nr_throttled"]), "oom_kills": kills}


# %% report: an idle group has no periods
# says: ZeroDivisionError
def report(group):
    cpu = dict(line.split() for line in group["cpu.stat"].splitlines())
    events = dict(line.split() for line in group["memory.events"].splitlines())
    part = int(cpu["nr_throttled"]) / int(cpu["nr_periods"])
    return {"cpu": int(cpu["usage_usec"]) / 1e6, "throttled": part, "oom_kills": int(events["oom_kill"])}


# %% report: text
# says: of a throttled group you say cpu='
def report(group):
    cpu = dict(line.split() for line in group["cpu.stat"].splitlines())
    return {"cpu": cpu["usage_usec"], "throttled": 0, "oom_kills": 0}


# %% report: nobody is ever killed
# says: of an OOM-killed group you say oom_kills=0
def report(group):
    cpu = dict(line.split() for line in group["cpu.stat"].splitlines())
    periods = int(cpu["nr_periods"])
    part = int(cpu["nr_throttled"]) / periods if periods else 0
    return {"cpu": int(cpu["usage_usec"]) / 1e6, "throttled": part, "oom_kills": 0}


# %% share_out: quotas
# says: they wait even when nobody else wants the CPU
def share_out(groups, parts):
    for group, part in zip(groups, parts, strict=True):
        group["cpu.max"] = f"{max(1000, round(part * 100_000))} 100000"


# %% share_out: percent are too coarse
# says: share_out raised UsageError: .*weight|weights \[96, 4, 1\]
def share_out(groups, parts):
    for group, part in zip(groups, parts, strict=True):
        group["cpu.weight"] = max(1, round(part * 100))


# %% share_out: a weight of nothing
# says: share_out raised UsageError: 0 is no weight|'0' is no weight
def share_out(groups, parts):
    for group, part in zip(groups, parts, strict=True):
        group["cpu.weight"] = int(part * 100)


# %% share_out: the other way round
# says: weights \[\d+, \d+, \d+\] for the parts \[0.5, 0.3, 0.2\]
def share_out(groups, parts):
    for group, part in zip(groups, parts, strict=True):
        group["cpu.weight"] = round(10 / part)


# %% share_out: all the same
# says: weights \[100, 100, 100\]
def share_out(groups, parts):
    for group in groups:
        group["cpu.weight"] = 100


# %% kill_all: one pass, while they go on forking
# says: \d+ processes of the group are alive
def kill_all(group):
    for pid in group.processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


# %% kill_all: it asks
# says: \d+ processes of the group are alive
def kill_all(group):
    group.freeze()
    for pid in group.processes():
        os.kill(pid, signal.SIGTERM)
    group.thaw()


# %% kill_all: frozen for ever
# says: the group is still frozen
def kill_all(group):
    group.freeze()
    for pid in group.processes():
        os.kill(pid, signal.SIGKILL)


# %% kill_all: it only stops them
# says: the group is still frozen
def kill_all(group):
    group.freeze()


# %% kill_all: the short way
# says: do without
def kill_all(group):
    group.kill()


# %% part: no limits
# says: pids.max are max, max, max 100000, max
Right = Share


class Share(Right):
    def prepare(self, host):
        self.path = f"{state.instance()}/{host.id}"
        self.group.make({"cpu.max": "max", "memory.max": "max", "pids.max": "max"})
        host.cgroup = self.group.birthplace()


# %% part: a quota in percent
# says: the engine says: cpu.max .*the kernel refuses '50 100000'
class Share(Right):
    def prepare(self, host):
        self.path = f"{state.instance()}/{host.id}"
        quota = f"{round((self.cpus or 1) * 100)} 100000"
        self.group.make({"cpu.max": quota, "memory.max": self.memory, "pids.max": self.pids})
        host.cgroup = self.group.birthplace()


# %% part: nothing is undone
# says: the group is still there after the container's end
class Share(Right):
    def release(self):
        pass


# %% part: a group of another name
# says: there is no group INSTANCE/CONTAINER-ID
class Share(Right):
    def prepare(self, host):
        self.path = f"{state.instance()}/web"
        self.group.make({"cpu.max": "50000 100000", "memory.max": self.memory, "pids.max": self.pids})
        host.cgroup = self.group.birthplace()


# %% part: swap=0 is taken for no wish
# says: pids.max are 67108864, max, 50000 100000, 20
class Share(Right):
    def prepare(self, host):
        wishes = {"memory.max": self.memory, "memory.swap.max": self.swap, "pids.max": self.pids}
        if self.cpus:
            wishes["cpu.max"] = f"{round(self.cpus * 100_000)} 100000"
        self.path = f"{state.instance()}/{host.id}"
        self.group.make({file: value for file, value in wishes.items() if value})
        host.cgroup = self.group.birthplace()


# %% part: nobody is in the group
# says: /proc/self/cgroup in the container names another group
class Share(Right):
    def prepare(self, host):
        wishes = {"memory.max": self.memory, "pids.max": self.pids}
        if self.cpus:
            wishes["cpu.max"] = f"{round(self.cpus * 100_000)} 100000"
        self.path = f"{state.instance()}/{host.id}"
        self.group.make(wishes)

    def attach(self, host):
        pass
