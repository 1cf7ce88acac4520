# Wrong answers to lab 02: each stands in the exercise's place, and the check has to say why it is wrong.
# A cell begins with "# %% NAME: what is wrong about it"; "# says: " is a regular expression of what the check says.

# %% furnish: only the program
# says: /bin/ls in its new root: .*
def furnish(root, program):
    os.makedirs(root + os.path.dirname(program), exist_ok=True)
    shutil.copy(program, root + program)


# %% furnish: the interpreter, and no library
# says: /bin/ls in its new root: status 127, .*error while loading shared libraries
def furnish(root, program):
    for path in filter(None, (program, interpreter(program))):
        os.makedirs(root + os.path.dirname(path), exist_ok=True)
        shutil.copy(path, root + path)


# %% furnish: it takes every program for a dynamic one
# says: furnish raised TypeError
def furnish(root, program):
    loader = interpreter(program)
    listed = subprocess.run([loader, "--list", program], capture_output=True, text=True).stdout
    for path in [program, loader, *(word for word in listed.split() if word.startswith("/"))]:
        os.makedirs(root + os.path.dirname(path), exist_ok=True)
        shutil.copy(path, root + path)


# %% furnish: the files' contents, without their permissions
# says: /bin/ls in its new root: .*
def furnish(root, program):
    needed = {program}
    if loader := interpreter(program):
        listed = subprocess.run([loader, "--list", program], capture_output=True, text=True).stdout
        needed |= {loader, *(word for word in listed.split() if word.startswith("/"))}
    for path in needed:
        os.makedirs(root + os.path.dirname(path), exist_ok=True)
        shutil.copyfile(path, root + path)


# %% furnish: a directory full of whatever may be needed
# says: files in the root of /bin/ls\nExpected: +only those
def furnish(root, program):
    needed = {program}
    if loader := interpreter(program):
        listed = subprocess.run([loader, "--list", program], capture_output=True, text=True).stdout
        needed |= {loader, *(word for word in listed.split() if word.startswith("/"))}
    needed |= {entry.path for entry in os.scandir("/usr/bin") if entry.is_file() and entry.name < "d"}
    for path in needed:
        os.makedirs(root + os.path.dirname(path), exist_ok=True)
        shutil.copy(path, root + path)


# %% escape: up, with the root above
# says: / is still the root that it was locked in
def escape():
    for _ in range(100):
        linux.chdir("..")


# %% escape: the new root is entered, so that there is no way up
# says: / is a directory inside of the root that it was locked in\n
def escape():
    linux.chroot("tmp")
    linux.chdir("/")
    for _ in range(100):
        linux.chdir("..")
    linux.chroot(".")


# %% escape: it stops with the current directory outside
# says: though the current directory is the host's root
def escape():
    linux.chroot("tmp")
    for _ in range(100):
        linux.chdir("..")


# %% escape: a path with many dots, from the new root
# says: / is still the root that it was locked in
def escape():
    linux.chdir("tmp")
    linux.chroot("/" + "../" * 100)


# %% own_mounts: a copy that is shared, as its original was
# says: appeared outside as well
def own_mounts():
    linux.unshare(linux.CLONE_NEWNS)


# %% own_mounts: only the topmost mount
# says: what was mounted below /mnt afterwards appeared outside as well
def own_mounts():
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount(None, "/", flags=linux.MS_PRIVATE)


# %% own_mounts: a slave hears
# says: what was mounted outside afterwards appeared in the copy
def own_mounts():
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount(None, "/", flags=linux.MS_REC | linux.MS_SLAVE)


# %% own_mounts: private first, and so the original
# says: the original mounts are no longer shared
def own_mounts():
    linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    linux.unshare(linux.CLONE_NEWNS)


# %% own_mounts: another namespace
# says: in the mount namespace that it came from
def own_mounts():
    linux.unshare(linux.CLONE_NEWUTS)


# %% furnish_dev: on the disk
# says: full, null, random, tty, urandom, zero on the disk
def furnish_dev(path):
    for name, (major, minor) in NODES.items():
        linux.mknod(f"{path}/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
        linux.chmod(f"{path}/{name}", 0o666)


# %% furnish_dev: the umask
# says: null has the mode 0o644
def furnish_dev(path):
    linux.mount("tmpfs", path, "tmpfs", linux.MS_NOSUID, "mode=755")
    for name, (major, minor) in NODES.items():
        linux.mknod(f"{path}/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))


# %% furnish_dev: a mount on which no device works
# says: null cannot be opened: EACCES
def furnish_dev(path):
    linux.mount("tmpfs", path, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    for name, (major, minor) in NODES.items():
        linux.mknod(f"{path}/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
        linux.chmod(f"{path}/{name}", 0o666)


# %% furnish_dev: files
# says: null is no character device
def furnish_dev(path):
    linux.mount("tmpfs", path, "tmpfs", linux.MS_NOSUID, "mode=755")
    for name in NODES:
        with open(f"{path}/{name}", "w"):
            pass
        linux.chmod(f"{path}/{name}", 0o666)


# %% furnish_dev: one driver's numbers the wrong way round
# says: null is the device \[3, 1\]\nExpected: +\[1, 3\]
def furnish_dev(path):
    linux.mount("tmpfs", path, "tmpfs", linux.MS_NOSUID, "mode=755")
    for name, (major, minor) in NODES.items():
        linux.mknod(f"{path}/{name}", stat.S_IFCHR | 0o666, os.makedev(minor, major))
        linux.chmod(f"{path}/{name}", 0o666)


# %% furnish_dev: programs may gain rights
# says: nosuid among them
def furnish_dev(path):
    linux.mount("tmpfs", path, "tmpfs", 0, "mode=755")
    for name, (major, minor) in NODES.items():
        linux.mknod(f"{path}/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
        linux.chmod(f"{path}/{name}", 0o666)


# %% pivot: nothing is done
# says: it is in the namespace that it came from
def pivot(root):
    linux.chdir(root)


# %% pivot: it works where / is private
# says: Where / was shared: pivot raised .*pivot_root\(.*EINVAL
def pivot(root):
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount(root, root, flags=linux.MS_BIND | linux.MS_REC)
    linux.chdir(root)
    linux.pivot_root(".", ".")
    linux.umount2(".", linux.MNT_DETACH)
    linux.chdir("/")


# %% pivot: a plain directory is no mount
# says: pivot raised .*pivot_root\(
def pivot(root):
    own_mounts()
    linux.chdir(root)
    linux.pivot_root(".", ".")
    linux.umount2(".", linux.MNT_DETACH)
    linux.chdir("/")


# %% pivot: the old root stays where it was put
# says: mounts that it can name: /, /old
def pivot(root):
    own_mounts()
    linux.mount(root, root, flags=linux.MS_BIND | linux.MS_REC)
    linux.pivot_root(root, f"{root}/old")
    linux.chdir("/")


# %% pivot: the old root is in use
# says: umount2\(.*EBUSY
def pivot(root):
    own_mounts()
    linux.mount(root, root, flags=linux.MS_BIND | linux.MS_REC)
    linux.pivot_root(root, f"{root}/old")
    linux.chdir("/")
    linux.umount2("/old")


# %% pivot: a chroot
# says: 0 mounts that it can name
def pivot(root):
    own_mounts()
    linux.chroot(root)
    linux.chdir("/")


# %% pivot: the namespace that it came from
# says: it is in the namespace that it came from
def pivot(root):
    linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    linux.mount(root, root, flags=linux.MS_BIND | linux.MS_REC)
    linux.chdir(root)
    linux.pivot_root(".", ".")
    linux.umount2(".", linux.MNT_DETACH)
    linux.chdir("/")


# %% part: it works where / is private
# says: test_it_works_whether_or_not_the_root_is_shared\[1048576\]
Right = Root


class Root(Right):
    def join(self, inside):
        pass


# %% part: the old root is still there
# says: test_nothing_of_the_host_is_mounted(.*\n)+.*/before
class Root(Right):
    def enter(self, inside):
        with within.root(inside.rootfs) as root:
            filesystems.mask(root, self.masked)
            for path in self.read_only_paths:
                filesystems.make_read_only(root, path)
            if self.read_only:
                linux.mount_setattr(root, "", linux.AT_EMPTY_PATH, set_attributes=linux.MOUNT_ATTR_RDONLY)
            linux.fchdir(root)
        linux.mkdir("before")
        linux.pivot_root(".", "before")
        linux.chdir("/")


# %% part: a chroot in a mount namespace
# says: test_pivot_root_cannot_be_left
class Root(Right):
    def enter(self, inside):
        with within.root(inside.rootfs) as root:
            filesystems.mask(root, self.masked)
            for path in self.read_only_paths:
                filesystems.make_read_only(root, path)
            if self.read_only:
                linux.mount_setattr(root, "", linux.AT_EMPTY_PATH, set_attributes=linux.MOUNT_ATTR_RDONLY)
        linux.chroot(inside.rootfs)
        linux.chdir("/")


# %% part: read_only is forgotten
# says: test_a_read_only_root
class Root(Right):
    def enter(self, inside):
        with within.root(inside.rootfs) as root:
            filesystems.mask(root, self.masked)
            for path in self.read_only_paths:
                filesystems.make_read_only(root, path)
            linux.fchdir(root)
        linux.pivot_root(".", ".")
        linux.umount2(".", linux.MNT_DETACH)
        linux.chdir("/")


# %% part: nothing is closed off
# says: test_masked_and_read_only_paths
class Root(Right):
    def enter(self, inside):
        with within.root(inside.rootfs) as root:
            if self.read_only:
                linux.mount_setattr(root, "", linux.AT_EMPTY_PATH, set_attributes=linux.MOUNT_ATTR_RDONLY)
            linux.fchdir(root)
        linux.pivot_root(".", ".")
        linux.umount2(".", linux.MNT_DETACH)
        linux.chdir("/")


# %% part: the descriptor is older than the mount
# says: dev/null', O_PATH\): ENOENT
class Root(Right):
    def mount(self, inside):
        inside.rootfs = self.rootfs
        with within.root(inside.rootfs) as root:
            linux.mount(self.rootfs, self.rootfs, flags=linux.MS_BIND | linux.MS_REC)
            filesystems.proc(root)
            filesystems.sys(root)
            filesystems.dev(root)


# %% part: it does not say where the root is
# says: the engine says: .*NoneType
class Root(Right):
    def mount(self, inside):
        linux.mount(self.rootfs, self.rootfs, flags=linux.MS_BIND | linux.MS_REC)
        with within.root(self.rootfs) as root:
            filesystems.proc(root)
            filesystems.sys(root)
            filesystems.dev(root)


# %% part: no mount namespace
# says: its mounts are outside of the container
class Root(Right):
    namespaces = 0
