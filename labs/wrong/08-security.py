# Wrong answers to lab 08: each stands in the exercise's place, and the check has to say why it is wrong.
# A cell begins with "# %% NAME: what is wrong about it"; "# says: " is a regular expression of what the check says.

# %% may: what it could make effective
# says: a process with CHOWN, KILL effective\nExpected: .* and not \['CHOWN', 'KILL', 'NET_RAW'\]
def may(pid):
    with open(f"/proc/{pid}/status") as file:
        mask = next(int(line.split()[1], 16) for line in file if line.startswith("CapPrm"))
    return [name for number, name in enumerate(NAMES) if mask >> number & 1]


# %% may: what an exec could give it
# says: and not \['CHOWN', 'DAC_OVERRIDE'
def may(pid):
    with open(f"/proc/{pid}/status") as file:
        mask = next(int(line.split()[1], 16) for line in file if line.startswith("CapBnd"))
    return [name for number, name in enumerate(NAMES) if mask >> number & 1]


# %% may: the first line that begins with Cap, which is the inheritable set
# says: and not \['NET_RAW'\]
def may(pid):
    with open(f"/proc/{pid}/status") as file:
        mask = next(int(line.split()[1], 16) for line in file if line.startswith("Cap"))
    return [name for number, name in enumerate(NAMES) if mask >> number & 1]


# %% may: its own
# says: and not \['CHOWN', 'DAC_OVERRIDE'
def may(pid):
    mask = linux.capget()[0]
    return [name for number, name in enumerate(NAMES) if mask >> number & 1]


# %% may: the mask is read as a decimal number
# says: and not \['CHOWN', 'DAC_READ_SEARCH', 'FSETID'\]
def may(pid):
    with open(f"/proc/{pid}/status") as file:
        mask = next(int(line.split()[1]) for line in file if line.startswith("CapEff"))
    return [name for number, name in enumerate(NAMES) if mask >> number & 1]


# %% may: the mask itself
# says: and not 33
def may(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("CapEff"))


# %% run_without: given up by the process, and given back by exec
# says: the program's bounding set has CHOWN
def run_without(name, argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        effective, permitted, _ = linux.capget()
        linux.capset(effective & ~bits([name]), permitted & ~bits([name]), 0)
        linux.execve(argv[0], argv, {"PATH": "/usr/bin:/bin"})
    return linux.waitid(pidfd).si_status


# %% run_without: taken from the caller
# says: the caller has lost a bounding one itself
def run_without(name, argv):
    linux.prctl(linux.PR_CAPBSET_DROP, NAMES.index(name))
    pid, pidfd = linux.clone3()
    if pid == 0:
        linux.execve(argv[0], argv, {"PATH": "/usr/bin:/bin"})
    return linux.waitid(pidfd).si_status


# %% run_without: all are taken
# says: its bounding set lacks .* as well\nExpected: +all but CHOWN
def run_without(name, argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        for number in range(len(NAMES)):
            linux.prctl(linux.PR_CAPBSET_DROP, number)
        linux.execve(argv[0], argv, {"PATH": "/usr/bin:/bin"})
    return linux.waitid(pidfd).si_status


# %% run_without: a mask, where a number is asked for
# says: the program's bounding set has (CHOWN|SYS_CHROOT)|the program says ''
def run_without(name, argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        try:
            linux.prctl(linux.PR_CAPBSET_DROP, bits([name]))
            linux.execve(argv[0], argv, {"PATH": "/usr/bin:/bin"})
        finally:
            os._exit(127)
    return linux.waitid(pidfd).si_status


# %% run_without: always the same one
# says: the program's bounding set has SYS_CHROOT
def run_without(name, argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        linux.prctl(linux.PR_CAPBSET_DROP, 0)
        linux.execve(argv[0], argv, {"PATH": "/usr/bin:/bin"})
    return linux.waitid(pidfd).si_status


# %% run_without: nobody waits
# says: None for a program that exits with 7|the program says ''
def run_without(name, argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        linux.prctl(linux.PR_CAPBSET_DROP, NAMES.index(name))
        linux.execve(argv[0], argv, {"PATH": "/usr/bin:/bin"})
    linux.waitid(pidfd)


# %% run_without: this process itself becomes the program
# says: never came back from run_without
def run_without(name, argv):
    linux.prctl(linux.PR_CAPBSET_DROP, NAMES.index(name))
    linux.execve(argv[0], argv, {"PATH": "/usr/bin:/bin"})


# %% run_as: the change of user has taken it
# says: the program did not run; 127 came back
def run_as(user, name, argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        try:
            linux.setgroups([])
            linux.setresgid(user)
            linux.setresuid(user)
            linux.capset(bits([name]), bits([name]), bits([name]))
            linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_RAISE, NAMES.index(name))
            linux.execve(argv[0], argv, {"PATH": "/usr/bin:/bin"})
        finally:
            os._exit(127)
    return linux.waitid(pidfd).si_status


# %% run_as: kept, and not ambient
# says: its effective set is empty
def run_as(user, name, argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        try:
            linux.prctl(linux.PR_SET_KEEPCAPS, 1)
            linux.setgroups([])
            linux.setresgid(user)
            linux.setresuid(user)
            linux.capset(bits([name]), bits([name]), bits([name]))
            linux.execve(argv[0], argv, {"PATH": "/usr/bin:/bin"})
        finally:
            os._exit(127)
    return linux.waitid(pidfd).si_status


# %% run_as: not inheritable, so it cannot be made ambient
# says: the program did not run; 127 came back
def run_as(user, name, argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        try:
            linux.prctl(linux.PR_SET_KEEPCAPS, 1)
            linux.setgroups([])
            linux.setresgid(user)
            linux.setresuid(user)
            linux.capset(bits([name]), bits([name]), 0)
            linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_RAISE, NAMES.index(name))
            linux.execve(argv[0], argv, {"PATH": "/usr/bin:/bin"})
        finally:
            os._exit(127)
    return linux.waitid(pidfd).si_status


# %% run_as: still in the groups of the caller
# says: it is in the groups
def run_as(user, name, argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        linux.prctl(linux.PR_SET_KEEPCAPS, 1)
        linux.setresgid(user)
        linux.setresuid(user)
        linux.capset(bits([name]), bits([name]), bits([name]))
        linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_RAISE, NAMES.index(name))
        linux.execve(argv[0], argv, {"PATH": "/usr/bin:/bin"})
    return linux.waitid(pidfd).si_status


# %% run_as: still root's group
# says: it runs as group 0 0 0 0
def run_as(user, name, argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        linux.prctl(linux.PR_SET_KEEPCAPS, 1)
        linux.setgroups([])
        linux.setresuid(user)
        linux.capset(bits([name]), bits([name]), bits([name]))
        linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_RAISE, NAMES.index(name))
        linux.execve(argv[0], argv, {"PATH": "/usr/bin:/bin"})
    return linux.waitid(pidfd).si_status


# %% run_as: root, with one capability left
# says: it runs as user 0 0 0 0
def run_as(user, name, argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        linux.setgroups([])
        linux.setresgid(user)
        for number in range(len(NAMES)):
            if number != NAMES.index(name):
                linux.prctl(linux.PR_CAPBSET_DROP, number)
        linux.execve(argv[0], argv, {"PATH": "/usr/bin:/bin"})
    return linux.waitid(pidfd).si_status


# %% run_as: one too many
# says: its effective set is KILL, NET_BIND_SERVICE
def run_as(user, name, argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        linux.prctl(linux.PR_SET_KEEPCAPS, 1)
        linux.setgroups([])
        linux.setresgid(user)
        linux.setresuid(user)
        two = bits([name, "KILL"])
        linux.capset(two, two, two)
        for each in (name, "KILL"):
            linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_RAISE, NAMES.index(each))
        linux.execve(argv[0], argv, {"PATH": "/usr/bin:/bin"})
    return linux.waitid(pidfd).si_status


# %% refuse: the architecture is not looked at
# says: of another architecture the filter answers 'allow and errno 28'
def refuse(number, error):
    return (
        instruction(LOAD, NUMBER)
        + instruction(EQUAL, number, 0, 1)
        + instruction(RETURN, ERRNO | error)
        + instruction(RETURN, ALLOW)
    )


# %% refuse: the two ways of the jump are exchanged
# says: number \d+, the filter answers 'allow'
def refuse(number, error):
    return (
        instruction(LOAD, ARCHITECTURE)
        + instruction(EQUAL, HERE, 1, 0)
        + instruction(RETURN, KILL)
        + instruction(LOAD, NUMBER)
        + instruction(EQUAL, number, 1, 0)
        + instruction(RETURN, ERRNO | error)
        + instruction(RETURN, ALLOW)
    )


# %% refuse: the errno alone
# says: the filter answers 'kill'\nExpected: +errno 28 \(ENOSPC\)
def refuse(number, error):
    return (
        instruction(LOAD, ARCHITECTURE)
        + instruction(EQUAL, HERE, 1, 0)
        + instruction(RETURN, KILL)
        + instruction(LOAD, NUMBER)
        + instruction(EQUAL, number, 0, 1)
        + instruction(RETURN, error)
        + instruction(RETURN, ALLOW)
    )


# %% refuse: nothing is allowed in the end
# says: to number 0 the filter answers 'nothing: it runs past its last instruction'
def refuse(number, error):
    return (
        instruction(LOAD, ARCHITECTURE)
        + instruction(EQUAL, HERE, 1, 0)
        + instruction(RETURN, KILL)
        + instruction(LOAD, NUMBER)
        + instruction(EQUAL, number, 0, 1)
        + instruction(RETURN, ERRNO | error)
    )


# %% refuse: the argument, instead of the number
# says: the filter answers 'allow'\nExpected: +errno 28
def refuse(number, error):
    return (
        instruction(LOAD, ARCHITECTURE)
        + instruction(EQUAL, HERE, 1, 0)
        + instruction(RETURN, KILL)
        + instruction(LOAD, ARGUMENT)
        + instruction(EQUAL, number, 0, 1)
        + instruction(RETURN, ERRNO | error)
        + instruction(RETURN, ALLOW)
    )


# %% refuse: always EPERM
# says: the filter answers 'errno 1'\nExpected: +errno 28
def refuse(number, error):
    return (
        instruction(LOAD, ARCHITECTURE)
        + instruction(EQUAL, HERE, 1, 0)
        + instruction(RETURN, KILL)
        + instruction(LOAD, NUMBER)
        + instruction(EQUAL, number, 0, 1)
        + instruction(RETURN, ERRNO | 1)
        + instruction(RETURN, ALLOW)
    )


# %% refuse: everything with a higher number as well
# says: the filter answers 'errno 28'\nExpected: +'allow'
def refuse(number, error):
    return (
        instruction(LOAD, ARCHITECTURE)
        + instruction(EQUAL, HERE, 1, 0)
        + instruction(RETURN, KILL)
        + instruction(LOAD, NUMBER)
        + instruction(0x35, number, 0, 1)
        + instruction(RETURN, ERRNO | error)
        + instruction(RETURN, ALLOW)
    )


# %% refuse: a list of instructions
# says: list came back
def refuse(number, error):
    return [instruction(LOAD, NUMBER), instruction(RETURN, ALLOW)]


# %% refuse: loaded, instead of returned
# says: NoneType came back
def refuse(number, error):
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.seccomp(instruction(RETURN, ALLOW))


# %% read_disk: by the name that it has on the host
# says: read_disk raised FileNotFoundError
def read_disk(major, minor):
    with open(f"/dev/loop{minor}", "rb") as disk:
        return disk.read(64).decode()


# %% read_disk: the node stays
# says: a device node is left at /tmp/disk
def read_disk(major, minor):
    linux.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(major, minor))
    with open("/tmp/disk", "rb") as disk:
        return disk.read(64).decode()


# %% read_disk: a character device
# says: read_disk raised (OSError|FileNotFoundError|PermissionError|KernelError)|came back, and that is not on the decoy
def read_disk(major, minor):
    linux.mknod("/tmp/disk", stat.S_IFCHR | 0o600, os.makedev(major, minor))
    try:
        with open("/tmp/disk", "rb") as disk:
            return disk.read(64).decode()
    finally:
        os.unlink("/tmp/disk")


# %% read_disk: bytes
# says: read_disk returned something of type bytes
def read_disk(major, minor):
    linux.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(major, minor))
    try:
        with open("/tmp/disk", "rb") as disk:
            return disk.read(64)
    finally:
        os.unlink("/tmp/disk")


# %% read_disk: all of it
# says: 4096 characters\nExpected: +64
def read_disk(major, minor):
    linux.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(major, minor))
    try:
        with open("/tmp/disk", "rb") as disk:
            return disk.read().decode()
    finally:
        os.unlink("/tmp/disk")


# %% read_disk: nothing comes back
# says: None came back
def read_disk(major, minor):
    linux.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(major, minor))
    os.unlink("/tmp/disk")


# %% part: exec gives it all back
# says: test_root_keeps_dockers_fourteen_capabilities of tests/test_security.py fails
Right = globals().setdefault("Right", MyCapabilities)  # the solution


class MyCapabilities(Right):
    def seal(self, inside):
        inside.at_exec.append(self.give_up)


# %% part: only the bounding set
# says: test_a_python_function_is_bound_as_well of tests/test_security.py fails
Right = globals().setdefault("Right", MyCapabilities)  # the solution


class MyCapabilities(Right):
    def give_up(self):
        pass


# %% part: a change of user empties the permitted set
# says: test_another_user_has_none_and_can_get_no_others of tests/test_security.py fails:\n(.*\n)*.*EPERM
Right = globals().setdefault("Right", MyCapabilities)  # the solution


class MyCapabilities(Right):
    def enter(self, inside):
        pass

    def seal(self, inside):
        for number in range(64):
            if not self.bounding >> number & 1 and number < len(NAMES):
                linux.prctl(linux.PR_CAPBSET_DROP, number)
        inside.at_exec.append(self.give_up)


# %% part: inheritable as well, as engines did it for years
# says: test_root_keeps_dockers_fourteen_capabilities of tests/test_security.py fails
Right = globals().setdefault("Right", MyCapabilities)  # the solution


class MyCapabilities(Right):
    def give_up(self):
        kept = self.bounding & linux.capget()[1]
        linux.capset(kept, kept, kept)


# %% part: given up before the filter is loaded
# says: test_in_a_user_namespace_its_root_keeps_the_same_fourteen of tests/test_security.py fails:\n.*CAP_SYS_ADMIN or no_new_privs
Right = globals().setdefault("Right", MyCapabilities)  # the solution


class MyCapabilities(Right):
    def seal(self, inside):
        Right.seal(self, inside)
        inside.at_exec.pop()
        self.give_up()


# %% part: `add` is forgotten
# says: test_add_and_drop_mean_what_they_mean_in_docker.* of tests/test_security.py fails
Right = globals().setdefault("Right", MyCapabilities)  # the solution


class MyCapabilities(Right):
    def __init__(self, *, add=(), drop=()):
        self.bounding = bits(DEFAULT) & ~bits(drop)


# %% part: what is both added and dropped is dropped
# says: test_add_and_drop_mean_what_they_mean_in_docker\[add3.* of tests/test_security.py fails
Right = globals().setdefault("Right", MyCapabilities)  # the solution


class MyCapabilities(Right):
    def __init__(self, *, add=(), drop=()):
        self.bounding = (bits(DEFAULT) | bits(add)) & ~bits(drop)


# %% part: ALL, whatever is dropped
# says: test_add_and_drop_mean_what_they_mean_in_docker\[add4.* of tests/test_security.py fails
Right = globals().setdefault("Right", MyCapabilities)  # the solution


class MyCapabilities(Right):
    def __init__(self, *, add=(), drop=()):
        self.bounding = bits(DEFAULT) & ~bits(drop) | bits(add)
