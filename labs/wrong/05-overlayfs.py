# Wrong answers to lab 05: each stands in the exercise's place, and the check has to say why it is wrong.
# A cell begins with "# %% NAME: what is wrong about it"; "# says: " is a regular expression of what the check says.

# %% stack: nothing is mounted
# says: merged is no mount
def stack(layers, upper, work, merged):
    return f"lowerdir={':'.join(reversed(layers))},upperdir={upper},workdir={work}"


# %% stack: the order of the list is taken for the kernel's
# says: one, two and three come from base, base, base
def stack(layers, upper, work, merged):
    words = f"lowerdir={':'.join(layers)},upperdir={upper},workdir={work}"
    linux.mount("overlay", merged, "overlay", 0, words)


# %% stack: only the uppermost layer
# says: FileNotFoundError: .*merged/one|one, two and three come from
def stack(layers, upper, work, merged):
    words = f"lowerdir={layers[-1]},upperdir={upper},workdir={work}"
    linux.mount("overlay", merged, "overlay", 0, words)


# %% stack: a copy instead of a mount
# says: merged is no mount\nExpected: +a mount of type overlay
def stack(layers, upper, work, merged):
    for layer in layers:
        shutil.copytree(layer, merged, dirs_exist_ok=True)


# %% stack: writes go to the uppermost layer, for upper is taken for a lower one
# says: upper holds \[\]
def stack(layers, upper, work, merged):
    *rest, top = layers
    lower = ":".join([upper, *reversed(rest)])
    linux.mount("overlay", merged, "overlay", 0, f"lowerdir={lower},upperdir={top},workdir={work}")


# %% stack: no upper, so nothing can be written
# says: Read-only file system
def stack(layers, upper, work, merged):
    linux.mount("overlay", merged, "overlay", 0, f"lowerdir={':'.join(reversed(layers))}")


# %% stack: work is forgotten
# says: raised (KernelError|OSError): .*EINVAL
def stack(layers, upper, work, merged):
    linux.mount("overlay", merged, "overlay", 0, f"lowerdir={':'.join(reversed(layers))},upperdir={upper}")


# %% erase: only what upper has is removed
# says: still in the merged tree
def erase(upper, path):
    place = os.path.join(upper, path)
    if os.path.isdir(place):
        shutil.rmtree(place)
    elif os.path.exists(place):
        os.unlink(place)


# %% erase: OCI's mark, which the kernel does not know
# says: a file, motd, is still in the merged tree
def erase(upper, path):
    place = os.path.join(upper, path)
    if os.path.isdir(place):
        shutil.rmtree(place)
    elif os.path.exists(place):
        os.unlink(place)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    parent, name = os.path.split(place)
    open(f"{parent}/.wh.{name}", "w").close()


# %% erase: an empty file covers, and is there
# says: a file, motd, is still in the merged tree
def erase(upper, path):
    place = os.path.join(upper, path)
    if os.path.isdir(place):
        shutil.rmtree(place)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    open(place, "w").close()


# %% erase: the directory is made opaque, and its other files go too
# says: etc/deep/group has gone too
def erase(upper, path):
    place = os.path.join(upper, path)
    if os.path.isdir(place):
        shutil.rmtree(place)
    elif os.path.exists(place):
        os.unlink(place)
    parent = os.path.dirname(place)
    os.makedirs(parent, exist_ok=True)
    linux.mknod(place, stat.S_IFCHR, 0)
    if parent != upper:
        os.setxattr(parent, "trusted.overlay.opaque", b"y")


# %% erase: a device that is no whiteout
# says: is still in the merged tree
def erase(upper, path):
    place = os.path.join(upper, path)
    if os.path.isdir(place):
        shutil.rmtree(place)
    elif os.path.exists(place):
        os.unlink(place)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    linux.mknod(place, stat.S_IFCHR, os.makedev(1, 3))


# %% erase: what upper has already is in the way
# says: raised .*EEXIST
def erase(upper, path):
    place = os.path.join(upper, path)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    linux.mknod(place, stat.S_IFCHR, 0)


# %% erase: the directories that lead there are missing
# says: raised .*ENOENT
def erase(upper, path):
    place = os.path.join(upper, path)
    if os.path.isdir(place):
        shutil.rmtree(place)
    elif os.path.exists(place):
        os.unlink(place)
    linux.mknod(place, stat.S_IFCHR, 0)


# %% changes: a whiteout is taken for a file
# says: was (added|deleted), yours says changed
def changes(upper, layers):
    found = {}
    for directory, _, names in os.walk(upper):
        for name in names:
            path = os.path.relpath(os.path.join(directory, name), upper)
            below = any(os.path.lexists(os.path.join(layer, path)) for layer in layers)
            found[f"/{path}"] = "changed" if below else "added"
    return found


# %% changes: only the base is asked
# says: /again was added, yours says changed
def changes(upper, layers):
    found = {}
    for directory, _, names in os.walk(upper):
        for name in names:
            path = os.path.relpath(os.path.join(directory, name), upper)
            below = os.path.lexists(os.path.join(layers[0], path))
            gone = stat.S_ISCHR(os.lstat(os.path.join(upper, path)).st_mode)
            found[f"/{path}"] = "deleted" if gone else "changed" if below else "added"
    return found


# %% changes: whiteouts in the layers are overlooked
# says: /again was added, yours says changed
def changes(upper, layers):
    found = {}
    for directory, _, names in os.walk(upper):
        for name in names:
            path = os.path.relpath(os.path.join(directory, name), upper)
            below = any(os.path.lexists(os.path.join(layer, path)) for layer in layers)
            gone = stat.S_ISCHR(os.lstat(os.path.join(upper, path)).st_mode)
            found[f"/{path}"] = "deleted" if gone else "changed" if below else "added"
    return found


# %% changes: only the names at the top
# says: /etc/app was deleted, yours says nothing
def changes(upper, layers):
    found = {}
    for name in os.listdir(upper):
        if os.path.isfile(os.path.join(upper, name)):
            found[f"/{name}"] = "added"
    return found


# %% changes: directories are named as well
# says: nothing has happened to /etc, yours says changed
def changes(upper, layers):
    found = {}
    for directory, directories, names in os.walk(upper):
        for name in directories + names:
            path = os.path.relpath(os.path.join(directory, name), upper)
            words = [os.path.join(layer, path) for layer in reversed(layers)]
            newest = next((word for word in words if os.path.lexists(word)), "/dev/null")
            below = not stat.S_ISCHR(os.lstat(newest).st_mode)
            gone = stat.S_ISCHR(os.lstat(os.path.join(upper, path)).st_mode)
            found[f"/{path}"] = "deleted" if gone else "changed" if below else "added"
    return found


# %% changes: a set of names
# says: yours is \{.*\nExpected: +a dict
def changes(upper, layers):
    return {name for _, _, names in os.walk(upper) for name in names}


# %% changes: paths without the slash
# says: /again was added, yours says nothing
def changes(upper, layers):
    found = {}
    for directory, _, names in os.walk(upper):
        for name in names:
            found[os.path.relpath(os.path.join(directory, name), upper)] = "changed"
    return found


# %% pack: compressed, as layers travel
# says: an archive that is compressed
def pack(upper, archive):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(upper, ".")


# %% pack: files and directories only: what was deleted comes back
# says: motd.* is there\nExpected: +what was deleted is gone
def pack(upper, archive):
    with tarfile.open(archive, "w") as tar:
        for directory, directories, names in os.walk(upper):
            for name in sorted(directories + names):
                place = os.path.join(directory, name)
                if not stat.S_ISCHR(os.lstat(place).st_mode):
                    tar.add(place, os.path.relpath(place, upper), recursive=False)
                elif name in directories:
                    tar.addfile(tarfile.TarInfo(os.path.relpath(place, upper)))


# %% pack: the kernel's whiteouts as they are
# says: an entry .*motd.*, which was deleted
def pack(upper, archive):
    with tarfile.open(archive, "w") as tar:
        for name in os.listdir(upper):
            tar.add(os.path.join(upper, name), name)


# %% pack: each directory with all that is in it, and then again
# says: etc/new [23] times in the archive
def pack(upper, archive):
    with tarfile.open(archive, "w") as tar:
        for directory, directories, names in os.walk(upper):
            for name in directories + names:
                place = os.path.join(directory, name)
                if not stat.S_ISCHR(os.lstat(place).st_mode):
                    tar.add(place, os.path.relpath(place, upper))


# %% pack: the mark of an opaque directory is forgotten
# says: srv/a, srv/b is there
def pack(upper, archive):
    with tarfile.open(archive, "w") as tar:
        for directory, directories, names in os.walk(upper):
            for name in sorted(directories + names):
                place = os.path.join(directory, name)
                path = os.path.relpath(place, upper)
                if stat.S_ISCHR(os.lstat(place).st_mode):
                    parent = os.path.dirname(path)
                    tar.addfile(tarfile.TarInfo(os.path.join(parent, f".wh.{name}")))
                else:
                    tar.add(place, path, recursive=False)


# %% pack: the prefix before the whole path
# says: the engine refuses the archive: the name .wh.etc/deep/old is below a whiteout
def pack(upper, archive):
    with tarfile.open(archive, "w") as tar:
        for directory, directories, names in os.walk(upper):
            for name in sorted(directories + names):
                place = os.path.join(directory, name)
                path = os.path.relpath(place, upper)
                if stat.S_ISCHR(os.lstat(place).st_mode):
                    tar.addfile(tarfile.TarInfo(f".wh.{path}"))
                    continue
                tar.add(place, path, recursive=False)
                if name in directories and os.listxattr(place):
                    tar.addfile(tarfile.TarInfo(f"{path}/.wh..wh..opq"))


# %% pack: the modes are lost
# says: etc/new has the mode 644
def pack(upper, archive):
    with tarfile.open(archive, "w") as tar:
        for directory, directories, names in os.walk(upper):
            for name in sorted(directories + names):
                place = os.path.join(directory, name)
                path = os.path.relpath(place, upper)
                info = tarfile.TarInfo(path)
                if stat.S_ISCHR(os.lstat(place).st_mode):
                    tar.addfile(tarfile.TarInfo(os.path.join(os.path.dirname(path), f".wh.{name}")))
                elif name in directories:
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(info)
                    if "trusted.overlay.opaque" in os.listxattr(place):
                        tar.addfile(tarfile.TarInfo(f"{path}/.wh..wh..opq"))
                else:
                    info.size = os.path.getsize(place)
                    with open(place, "rb") as file:
                        tar.addfile(info, file)


# %% pack: it becomes tar, which packs what the directory holds
# says: never came back from pack: it became another program
def pack(upper, archive):
    linux.execve("/bin/tar", ["tar", "-cf", archive, "-C", upper, "."], {})


# %% pack: no archive
# says: no archive
def pack(upper, archive):
    with tarfile.open("/dev/null", "w") as tar:
        tar.add(upper, "/")


# %% overlay: one directory for all containers
# says: another container, with no upper given, reads 'mine|test_containers_of_one_image
class MyOverlay(Part):
    namespaces = linux.CLONE_NEWNS

    def __init__(self, layers, upper=None):
        self.layers, self.directory, self.given = list(layers), upper, upper
        if upper is None:
            self.directory = f"{state.data_root()}/containers/shared"

    def prepare(self, host):
        self.upperdir = f"{self.directory}/upper"
        for name in ("upper", "work", "merged"):
            os.makedirs(f"{self.directory}/{name}", exist_ok=True)

    def mount(self, inside):
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        inside.rootfs = f"{self.directory}/merged"
        stack(self.layers, self.upperdir, f"{self.directory}/work", inside.rootfs)

    def release(self):
        if not self.given:
            shutil.rmtree(self.directory, ignore_errors=True)


# %% overlay: the layer itself is the root
# says: The kernel shows: +the layer has changed
class MyOverlay(Part):
    namespaces = linux.CLONE_NEWNS

    def __init__(self, layers, upper=None):
        self.layers = layers

    def prepare(self, host):
        self.upperdir = self.layers[0]
        shutil.copytree(self.layers[1], self.layers[0], dirs_exist_ok=True)

    def mount(self, inside):
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        inside.rootfs = self.layers[0]
        linux.mount(inside.rootfs, inside.rootfs, None, linux.MS_BIND)


# %% overlay: release removes what it was given
# says: the next container with the same upper reads 'of the image
class MyOverlay(Part):
    namespaces = linux.CLONE_NEWNS

    def __init__(self, layers, upper=None):
        self.layers, self.directory = list(layers), upper

    def prepare(self, host):
        self.directory = self.directory or f"{state.data_root()}/containers/{host.id}"
        self.upperdir = f"{self.directory}/upper"
        for name in ("upper", "work", "merged"):
            os.makedirs(f"{self.directory}/{name}", exist_ok=True)

    def mount(self, inside):
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        inside.rootfs = f"{self.directory}/merged"
        stack(self.layers, self.upperdir, f"{self.directory}/work", inside.rootfs)

    def release(self):
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)


# %% overlay: nothing is removed
# says: the changes of a container that has ended
class MyOverlay(Part):
    namespaces = linux.CLONE_NEWNS

    def __init__(self, layers, upper=None):
        self.layers, self.directory = list(layers), upper

    def prepare(self, host):
        self.directory = self.directory or f"{state.data_root()}/containers/{host.id}"
        self.upperdir = f"{self.directory}/upper"
        for name in ("upper", "work", "merged"):
            os.makedirs(f"{self.directory}/{name}", exist_ok=True)

    def mount(self, inside):
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        inside.rootfs = f"{self.directory}/merged"
        stack(self.layers, self.upperdir, f"{self.directory}/work", inside.rootfs)


# %% overlay: mounted on the host, where everybody sees it
# says: a mount that the containers' makers can see
class MyOverlay(Part):
    namespaces = linux.CLONE_NEWNS

    def __init__(self, layers, upper=None):
        self.layers, self.directory, self.given = list(layers), upper, upper

    def prepare(self, host):
        self.directory = self.directory or f"{state.data_root()}/containers/{host.id}"
        self.upperdir = f"{self.directory}/upper"
        for name in ("upper", "work", "merged"):
            os.makedirs(f"{self.directory}/{name}", exist_ok=True)
        stack(self.layers, self.upperdir, f"{self.directory}/work", f"{self.directory}/merged")

    def mount(self, inside):
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        inside.rootfs = f"{self.directory}/merged"


# %% overlay: a second release fails
# says: test_the_host_sees_no_mount_and_release_removes_the_directories|cannot be released|FileNotFoundError
class MyOverlay(Part):
    namespaces = linux.CLONE_NEWNS

    def __init__(self, layers, upper=None):
        self.layers, self.directory, self.given = list(layers), upper, upper

    def prepare(self, host):
        self.directory = self.directory or f"{state.data_root()}/containers/{host.id}"
        self.upperdir = f"{self.directory}/upper"
        for name in ("upper", "work", "merged"):
            os.makedirs(f"{self.directory}/{name}", exist_ok=True)

    def mount(self, inside):
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        inside.rootfs = f"{self.directory}/merged"
        stack(self.layers, self.upperdir, f"{self.directory}/work", inside.rootfs)

    def release(self):
        if not self.given:
            shutil.rmtree(self.directory)
