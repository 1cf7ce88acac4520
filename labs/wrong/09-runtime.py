# Wrong answers to lab 09: each stands in the exercise's place, and the check has to say why it is wrong.
# A cell begins with "# %% NAME: what is wrong about it"; "# says: " is a regular expression of what the check says.

# %% own_kinds: OCI's names
# says: has of its own: ipc, mnt, net, pid, uts\nExpected: +that, and not \['ipc', 'mount', 'network', 'pid', 'uts'\]
def own_kinds(config):
    return [entry["type"] for entry in config["linux"]["namespaces"] if not entry.get("path")]


# %% own_kinds: what is joined counts as its own
# says: the third bundle has of its own: mnt, pid, uts\nExpected: +that, and not \['ipc', 'mnt', 'net', 'pid', 'uts'\]
def own_kinds(config):
    names = {"mount": "mnt", "network": "net"}
    return [names.get(entry["type"], entry["type"]) for entry in config["linux"]["namespaces"]]


# %% own_kinds: always the usual five
# says: the second bundle has of its own: cgroup, mnt, uts
def own_kinds(config):
    return ["mnt", "pid", "uts", "ipc", "net"]


# %% own_kinds: those that are not listed
# says: the first bundle .*\n.*and not \['cgroup', 'time', 'user'\]
def own_kinds(config):
    listed = {entry["type"] for entry in config["linux"]["namespaces"]}
    names = {"pid": "pid", "mount": "mnt", "network": "net", "uts": "uts", "ipc": "ipc"}
    return [kind for name, kind in {**names, "user": "user", "cgroup": "cgroup", "time": "time"}.items() if name not in listed]


# %% own_kinds: nothing is returned
# says: and not None
def own_kinds(config):
    [entry["type"] for entry in config["linux"]["namespaces"]]


# %% own_kinds: an entry without a path is taken for one with
# says: own_kinds raised KeyError: 'path'
def own_kinds(config):
    return [entry["type"] for entry in config["linux"]["namespaces"] if not entry["path"]]


# %% bundle: nothing is written
# says: in the bundle there is rootfs\nExpected: +config.json beside rootfs
Right = globals().setdefault("RightBundle", bundle)  # the solution


def bundle(directory, argv):
    return {"ociVersion": "1.0.2"}


# %% bundle: another file name
# says: in the bundle there is config, rootfs
def bundle(directory, argv):
    with open(f"{directory}/config", "w") as file:
        json.dump({"ociVersion": "1.0.2"}, file)


# %% bundle: no process
# says: engine says: ours create: status 1: .*process
def bundle(directory, argv):
    with open(f"{directory}/config.json", "w") as file:
        json.dump({"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "linux": {}}, file)


# %% bundle: Python's way of writing it
# says: config.json is not JSON
def bundle(directory, argv):
    with open(f"{directory}/config.json", "w") as file:
        file.write(str({"ociVersion": "1.0.2", "root": {"path": "rootfs"}}))


# %% bundle: as root
# says: it runs as user 0, group 0\nExpected: +1000 and 1000
def changed(directory, change):
    with open(f"{directory}/config.json") as file:
        config = json.load(file)
    change(config)
    with open(f"{directory}/config.json", "w") as file:
        json.dump(config, file)


def bundle(directory, argv):
    RightBundle(directory, argv)
    changed(directory, lambda config: config["process"].pop("user"))


# %% bundle: the network is the host's
# says: it shares network with the host
def bundle(directory, argv):
    RightBundle(directory, argv)
    changed(directory, lambda config: config["linux"]["namespaces"].pop())


# %% bundle: capabilities are not spoken of
# says: CapBnd of its status are not 0\nExpected: +no capability in any set
def bundle(directory, argv):
    RightBundle(directory, argv)
    changed(directory, lambda config: config["process"].pop("capabilities"))


# %% bundle: only the effective ones are dropped
# says: CapBnd of its status are not 0
def bundle(directory, argv):
    RightBundle(directory, argv)
    changed(directory, lambda config: config["process"]["capabilities"].update(bounding=["CAP_KILL"]))


# %% bundle: the limit stands where nobody looks for it
# says: it may have max processes\nExpected: +20
def bundle(directory, argv):
    RightBundle(directory, argv)
    changed(directory, lambda config: config.update(resources=config["linux"].pop("resources")))


# %% bundle: noNewPrivileges in the wrong place
# says: NoNewPrivs of its status is 0
def bundle(directory, argv):
    RightBundle(directory, argv)
    changed(directory, lambda config: config.update(noNewPrivileges=config["process"].pop("noNewPrivileges")))


# %% bundle: no /proc
# says: nothing is mounted on its /proc
def bundle(directory, argv):
    RightBundle(directory, argv)
    changed(directory, lambda config: config.pop("mounts"))


# %% bundle: no name
# says: it calls itself '.*'\nExpected: +'bundled'
def bundle(directory, argv):
    RightBundle(directory, argv)
    changed(directory, lambda config: config.pop("hostname"))


# %% bundle: a command of its own
# says: after start it runs \['sleep', '99'\]
def bundle(directory, argv):
    RightBundle(directory, ["sleep", "99"])


# %% status: a pid is enough
# says: its process is a zombie; yours says 'running'\nExpected: +'stopped'
def status(directory):
    with open(f"{directory}/state.json") as file:
        pid = json.load(file)["pid"]
    if not os.path.exists(f"/proc/{pid}"):
        return "stopped"
    return "created" if os.path.exists(f"{directory}/start.sock") else "running"


# %% status: the number is another's by now
# says: another process has its number now, which began later; yours says 'running'
def status(directory):
    with open(f"{directory}/state.json") as file:
        pid = json.load(file)["pid"]
    try:
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] == "Z":
                return "stopped"
    except FileNotFoundError:
        return "stopped"
    return "created" if os.path.exists(f"{directory}/start.sock") else "running"


# %% status: fields counted by spaces
# says: its process runs, and calls itself `x\) Z \(`; yours says 'stopped'
def status(directory):
    with open(f"{directory}/state.json") as file:
        remembered = json.load(file)
    try:
        with open(f"/proc/{remembered['pid']}/stat") as file:
            fields = file.read().split()
    except FileNotFoundError:
        return "stopped"
    if fields[2] == "Z" or fields[21] != str(remembered["start_time"]):
        return "stopped"
    return "created" if os.path.exists(f"{directory}/start.sock") else "running"


# %% status: the files alone
# says: its process is a zombie; yours says 'running'
def status(directory):
    return "created" if os.path.exists(f"{directory}/start.sock") else "running"


# %% status: created is not told from running
# says: its process waits for start; yours says 'running'\nExpected: +'created'
def status(directory):
    with open(f"{directory}/state.json") as file:
        remembered = json.load(file)
    try:
        with open(f"/proc/{remembered['pid']}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return "stopped"
    return "stopped" if fields[0] == "Z" or int(fields[19]) != remembered["start_time"] else "running"


# %% status: a number and a word are never equal
# says: its process waits for start; yours says 'stopped'
def status(directory):
    with open(f"{directory}/state.json") as file:
        remembered = json.load(file)
    try:
        with open(f"/proc/{remembered['pid']}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return "stopped"
    if fields[0] == "Z" or fields[19] != remembered["start_time"]:
        return "stopped"
    return "created" if os.path.exists(f"{directory}/start.sock") else "running"


# %% status: nobody of that number is not thought of
# says: status raised FileNotFoundError
def status(directory):
    with open(f"{directory}/state.json") as file:
        remembered = json.load(file)
    with open(f"/proc/{remembered['pid']}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    if fields[0] == "Z" or int(fields[19]) != remembered["start_time"]:
        return "stopped"
    return "created" if os.path.exists(f"{directory}/start.sock") else "running"


# %% hook: nothing is done
# says: the container's loopback has 127.0.0.1(, ::1)?\nExpected: +192.0.2.7
def hook(state):
    state["pid"]


# %% hook: the host's loopback gets it
# says: the host's own loopback has 192.0.2.7
def hook(state):
    subprocess.run(["ip", "address", "add", "192.0.2.7/24", "dev", "lo"], check=True)


# %% hook: another address
# says: the container's loopback has 127.0.0.1.* 192.0.2.8.*\nExpected: +192.0.2.7
def hook(state):
    enter = ["nsenter", "--target", str(state["pid"]), "--net", "ip"]
    subprocess.run([*enter, "address", "add", "192.0.2.8/24", "dev", "lo"], check=True)


# %% hook: it only sees that the loopback is up
# says: the container's loopback has 127.0.0.1
def hook(state):
    subprocess.run(["nsenter", "--target", str(state["pid"]), "--net", "ip", "link", "set", "lo", "up"], check=True)


# %% hook: a number is no word
# says: error running hook #0 of createRuntime.*TypeError
def hook(state):
    subprocess.run(["nsenter", "--target", state["pid"], "--net", "ip", "link", "set", "lo", "up"], check=True)


# %% hook: its name is taken for its number
# says: error running hook #0 of createRuntime.*CalledProcessError
def hook(state):
    subprocess.run(["nsenter", "--target", state["id"], "--net", "ip", "link", "set", "lo", "up"], check=True)


# %% hook: it does not come back
# says: ran longer than 5 s, and was killed
def hook(state):
    subprocess.run(["sleep", "600"])


# %% hook: it waits for the container to run
# says: ran longer than 5 s, and was killed
def hook(state):
    while state["status"] != "running":
        pass


# %% part: a socket of another name
# says: in the state directory there is config.json, hold.sock, state.json
Right = globals().setdefault("RightHold", MyHold)  # the solution


class MyHold(RightHold):
    def prepare(self, host):
        place = os.open(self.directory, os.O_PATH)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"/proc/self/fd/{place}/hold.sock")
        listener.listen()
        os.close(place)
        host.give("hold", listener.detach())


# %% part: it does not wait
# says: before start, the command runs|the process that it has made is gone
class MyHold(RightHold):
    def seal(self, inside):
        linux.prctl(linux.PR_SET_PDEATHSIG, 0)
        inside.ask("created")


# %% part: create is never told
# says: `create` had not ended after 5 s, and was killed
class MyHold(RightHold):
    def seal(self, inside):
        linux.prctl(linux.PR_SET_PDEATHSIG, 0)
        listener = socket.socket(fileno=inside.fds["hold"])
        caller, _ = listener.accept()
        inside.report_to(caller.detach())


# %% part: it dies with its maker
# says: when create has ended, the process that it has made is gone|in the stopped state
class MyHold(RightHold):
    def seal(self, inside):
        inside.ask("created")
        listener = socket.socket(fileno=inside.fds["hold"])
        while True:
            caller, _ = listener.accept()
            if caller.recv(1000):
                break
        inside.report_to(caller.detach())


# %% part: the caller is closed behind its back
# says: start: 
class MyHold(RightHold):
    def seal(self, inside):
        linux.prctl(linux.PR_SET_PDEATHSIG, 0)
        inside.ask("created")
        listener = socket.socket(fileno=inside.fds["hold"])
        caller, _ = listener.accept()
        caller.recv(1000)
        inside.report_to(caller.fileno())


# %% part: any caller will do
# says: test_caller_that_goes_without_a_word_starts_nothing of tests/test_runtime_hold.py fails
class MyHold(RightHold):
    def seal(self, inside):
        linux.prctl(linux.PR_SET_PDEATHSIG, 0)
        inside.ask("created")
        listener = socket.socket(fileno=inside.fds["hold"])
        caller, _ = listener.accept()
        caller.recv(1000)
        inside.report_to(caller.detach())


# %% part: a long name
# says: test_state_directory_may_have_a_long_name of tests/test_runtime_hold.py fails
class MyHold(RightHold):
    def prepare(self, host):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{self.directory}/start.sock")
        listener.listen()
        host.give("hold", listener.detach())


# %% part: it holds before its rights are taken
# says: test_created_process_has_the_rights_of_its_command_already of tests/test_runtime_hold.py fails
class MyHold(RightHold):
    seal_order = -100


# %% part: a module is missing inside
# says: ModuleNotFoundError|ImportError
class MyHold(RightHold):
    def seal(self, inside):
        import xmlrpc.client

        super().seal(inside)
