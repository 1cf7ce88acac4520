# Wrong answers to lab 07: each stands in the exercise's place, and the check has to say why it is wrong.
# A cell begins with "# %% NAME: what is wrong about it"; "# says: " is a regular expression of what the check says.

# %% blob: nothing is verified
# says: sends one flipped bit, and you return 10000 other bytes\nExpected: +ValueError
def blob(host, repository, descriptor):
    return ask(host, f"/v2/{repository}/blobs/{descriptor['digest']}")[1]


# %% blob: only the size is looked at
# says: sends one flipped bit, and you return 10000 other bytes
def blob(host, repository, descriptor):
    _kind, data = ask(host, f"/v2/{repository}/blobs/{descriptor['digest']}")
    if len(data) != descriptor["size"]:
        raise ValueError("another size")
    return data


# %% blob: only the digest is looked at
# says: whose size the descriptor says wrong, and you return them
def blob(host, repository, descriptor):
    _kind, data = ask(host, f"/v2/{repository}/blobs/{descriptor['digest']}")
    if digest(data) != descriptor["digest"]:
        raise ValueError("another digest")
    return data


# %% blob: the registry is asked whether it tells the truth
# says: sends one flipped bit, and you return 10000 other bytes
def blob(host, repository, descriptor):
    connection = http.client.HTTPConnection(host)
    connection.request("GET", f"/v2/{repository}/blobs/{descriptor['digest']}")
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    if answer.getheader("Docker-Content-Digest") != descriptor["digest"] or len(data) != descriptor["size"]:
        raise ValueError("the registry says it is another one")
    return data


# %% blob: what is too long is cut
# says: more bytes behind the right ones, and you return them
def blob(host, repository, descriptor):
    _kind, data = ask(host, f"/v2/{repository}/blobs/{descriptor['digest']}")
    data = data[: descriptor["size"]]
    if digest(data) != descriptor["digest"] or len(data) != descriptor["size"]:
        raise ValueError("this is not it")
    return data


# %% blob: all is refused
# says: sends the right bytes, and you raise ValueError\nExpected: +the bytes
def blob(host, repository, descriptor):
    raise ValueError("one never knows")


# %% manifest: an index is taken for a manifest
# says: for many:latest on amd64 you return the index itself
def manifest(host, repository, tag, architecture):
    return json.loads(ask(host, f"/v2/{repository}/manifests/{tag}")[1])


# %% manifest: the first that comes
# says: for many:latest on amd64 you return the manifest for s390x
def manifest(host, repository, tag, architecture):
    document = json.loads(ask(host, f"/v2/{repository}/manifests/{tag}")[1])
    if document["mediaType"] != INDEX:
        return document
    entry = document["manifests"][0]
    data = ask(host, f"/v2/{repository}/manifests/{entry['digest']}")[1]
    if digest(data) != entry["digest"]:
        raise ValueError("not what the index names")
    return json.loads(data)


# %% manifest: always this machine's kind
# says: for many:latest on arm64 you return the manifest for amd64
def manifest(host, repository, tag, architecture):
    document = json.loads(ask(host, f"/v2/{repository}/manifests/{tag}")[1])
    if document["mediaType"] != INDEX:
        return document
    for entry in document["manifests"]:
        if entry["platform"]["architecture"] == "amd64":
            return json.loads(ask(host, f"/v2/{repository}/manifests/{entry['digest']}")[1])


# %% manifest: every tag is taken for an index
# says: manifest raised KeyError: 'manifests'
def manifest(host, repository, tag, architecture):
    document = json.loads(ask(host, f"/v2/{repository}/manifests/{tag}")[1])
    for entry in document["manifests"]:
        if entry["platform"]["architecture"] == architecture:
            return json.loads(ask(host, f"/v2/{repository}/manifests/{entry['digest']}")[1])
    raise ValueError("none")


# %% manifest: nothing is said of a missing platform
# says: no error for a platform that the index has not
def manifest(host, repository, tag, architecture):
    document = json.loads(ask(host, f"/v2/{repository}/manifests/{tag}")[1])
    if document["mediaType"] != INDEX:
        return document
    for entry in document["manifests"]:
        if entry["platform"]["architecture"] == architecture:
            return json.loads(ask(host, f"/v2/{repository}/manifests/{entry['digest']}")[1])


# %% manifest: what was asked for by digest is not verified
# says: not the one the index names by its digest was taken
def manifest(host, repository, tag, architecture):
    document = json.loads(ask(host, f"/v2/{repository}/manifests/{tag}")[1])
    if document["mediaType"] != INDEX:
        return document
    for entry in document["manifests"]:
        if entry["platform"]["architecture"] == architecture:
            return json.loads(ask(host, f"/v2/{repository}/manifests/{entry['digest']}")[1])
    raise ValueError("none")


# %% directories: one after the other, when somebody asks
# says: returned something of type generator
def directories(packed):
    for layer in packed:
        yield digest(gzip.decompress(layer))


# %% directories: the digest of what travels
# says: of one layer, number 1 lies in
def directories(packed):
    return [digest(layer).removeprefix("sha256:") for layer in packed]


# %% directories: only the diff_id
# says: of three layers, of which two have the same content, number 2 lies in
def directories(packed):
    return [digest(gzip.decompress(layer)).removeprefix("sha256:") for layer in packed]


# %% directories: without the prefix in the text
# says: of three layers, of which two have the same content, number 2 lies in
def directories(packed):
    chain = []
    for layer in packed:
        diff_id = digest(gzip.decompress(layer)).removeprefix("sha256:")
        chain.append(digest(f"{chain[-1]} {diff_id}".encode()).removeprefix("sha256:") if chain else diff_id)
    return chain


# %% directories: the diff_id below instead of the chain id below
# says: of three layers, of which two have the same content, number 3 lies in
def directories(packed):
    ids = [digest(gzip.decompress(layer)) for layer in packed]
    chain = [ids[0]] + [digest(f"{below} {above}".encode()) for below, above in zip(ids, ids[1:])]
    return [name.removeprefix("sha256:") for name in chain]


# %% directories: the prefix stays
# says: of one layer, number 1 lies in .* and you say sha256:
def directories(packed):
    chain = []
    for layer in packed:
        diff_id = digest(gzip.decompress(layer))
        chain.append(digest(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


# %% folder: a path is put together and opened
# says: made in outside, layer-of-somebody-else
def folder(root, path):
    place = os.path.join(os.readlink(f"/proc/self/fd/{root}"), path)
    os.makedirs(place, exist_ok=True)
    return os.open(place, os.O_RDONLY | os.O_DIRECTORY)


# %% folder: names with dots are refused, links are not thought of
# says: made in outside, layer-of-somebody-else
def folder(root, path):
    if ".." in path or path.startswith("/"):
        raise OSError("it leaves")
    place = os.path.join(os.readlink(f"/proc/self/fd/{root}"), path)
    os.makedirs(place, exist_ok=True)
    return os.open(place, os.O_RDONLY | os.O_DIRECTORY)


# %% folder: it begins with the same letters
# says: made in layer-of-somebody-else
def folder(root, path):
    top = os.readlink(f"/proc/self/fd/{root}")
    place = os.path.realpath(os.path.join(top, path))
    if not place.startswith(top):
        raise OSError("it leaves")
    os.makedirs(place, exist_ok=True)
    return os.open(place, os.O_RDONLY | os.O_DIRECTORY)


# %% folder: what leaves is clipped to the root
# says: for \.\. you have opened .*\nExpected: +OSError
def folder(root, path):
    flags = os.O_RDONLY | os.O_DIRECTORY
    try:
        return linux.openat2(root, path, flags, linux.RESOLVE_IN_ROOT)
    except FileNotFoundError:
        above = folder(root, os.path.dirname(path) or ".")
        os.mkdir(os.path.basename(path), dir_fd=above)
        os.close(above)
        return linux.openat2(root, path, flags, linux.RESOLVE_IN_ROOT)


# %% folder: no link is followed
# says: for in, which is layer/a, you raise ELOOP\nExpected: +layer/a
def folder(root, path):
    flags, how = os.O_RDONLY | os.O_DIRECTORY, linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS
    try:
        return linux.openat2(root, path, flags, how)
    except FileNotFoundError:
        above = folder(root, os.path.dirname(path) or ".")
        os.mkdir(os.path.basename(path), dir_fd=above)
        os.close(above)
        return linux.openat2(root, path, flags, how)


# %% folder: what is not there is not made
# says: for new/and/deep, which is layer/new/and/deep, you raise ENOENT
def folder(root, path):
    return linux.openat2(root, path, os.O_RDONLY | os.O_DIRECTORY, linux.RESOLVE_BENEATH)


# %% origins: the last one wins, and that is all
# says: of 2 layers, a container finds no file again, and you have one from layer 0
def origins(directories):
    found = {}
    for number, directory in enumerate(directories):
        for place, folders, files in os.walk(directory):
            for name in files + [folder for folder in folders if os.path.islink(f"{place}/{folder}")]:
                if not stat.S_ISCHR(os.lstat(f"{place}/{name}").st_mode):
                    found[os.path.relpath(f"{place}/{name}", directory)] = number
    return found


# %% origins: the first one wins
# says: of 2 layers, a container reads etc/host from layer 1, and you have it from layer 0
def origins(directories):
    found = {}
    for number, directory in enumerate(directories):
        for place, folders, files in os.walk(directory):
            for name in files + [folder for folder in folders if os.path.islink(f"{place}/{folder}")]:
                found.setdefault(os.path.relpath(f"{place}/{name}", directory), number)
    return found


# %% origins: links to folders are forgotten
# says: of one layer, a container reads lib from layer 0, and you have it from nowhere
def origins(directories):
    found = {}
    for number, directory in enumerate(directories):
        for place, folders, files in os.walk(directory):
            for name in files:
                path = os.path.relpath(f"{place}/{name}", directory)
                hide(found, path)
                if not stat.S_ISCHR(os.lstat(f"{place}/{name}").st_mode):
                    found[path] = number
    return found


# %% origins: a whiteout is a file like any other
# says: of 2 layers, a container finds no file again, and you have one from layer 1
def origins(directories):
    found = {}
    for number, directory in enumerate(directories):
        mine = {}
        for place, folders, files in os.walk(directory):
            here = os.path.relpath(place, directory)
            found.pop(here, None)
            if opaque(place):
                hide(found, here)
            for name in files + [folder for folder in folders if os.path.islink(f"{place}/{folder}")]:
                path = os.path.normpath(f"{here}/{name}")
                hide(found, path)
                mine[path] = number
        found |= mine
    return found


# %% origins: a whiteout hides a name and not what is below it
# says: of 2 layers, a container finds no file opt/tool/bin, and you have one from layer 0
def origins(directories):
    found = {}
    for number, directory in enumerate(directories):
        mine = {}
        for place, folders, files in os.walk(directory):
            here = os.path.relpath(place, directory)
            if opaque(place):
                hide(found, here)
            for name in files + [folder for folder in folders if os.path.islink(f"{place}/{folder}")]:
                path = os.path.normpath(f"{here}/{name}")
                found.pop(path, None)
                if not stat.S_ISCHR(os.lstat(f"{place}/{name}").st_mode):
                    mine[path] = number
        found |= mine
    return found


# %% origins: what begins with the same letters is hidden as well
# says: of 2 layers, a container reads optional from layer 0, and you have it from nowhere
def origins(directories):
    found = {}
    for number, directory in enumerate(directories):
        mine = {}
        for place, folders, files in os.walk(directory):
            here = os.path.relpath(place, directory)
            found.pop(here, None)
            if opaque(place):
                found = {path: layer for path, layer in found.items() if not path.startswith(here)}
            for name in files + [folder for folder in folders if os.path.islink(f"{place}/{folder}")]:
                path = os.path.normpath(f"{here}/{name}")
                found = {seen: layer for seen, layer in found.items() if not seen.startswith(path)}
                if not stat.S_ISCHR(os.lstat(f"{place}/{name}").st_mode):
                    mine[path] = number
        found |= mine
    return found


# %% origins: an opaque directory is a directory like any other
# says: of 2 layers, a container finds no file cache/deep/two, and you have one from layer 0
def origins(directories):
    found = {}
    for number, directory in enumerate(directories):
        for place, folders, files in os.walk(directory):
            here = os.path.relpath(place, directory)
            found.pop(here, None)
            for name in files + [folder for folder in folders if os.path.islink(f"{place}/{folder}")]:
                path = os.path.normpath(f"{here}/{name}")
                hide(found, path)
                if not stat.S_ISCHR(os.lstat(f"{place}/{name}").st_mode):
                    found[path] = number
    return found


# %% origins: what was deleted once stays deleted
# says: of 3 layers, a container reads again from layer 2, and you have it from nowhere
def origins(directories):
    found, gone = {}, []
    for number, directory in enumerate(directories):
        mine = {}
        for place, folders, files in os.walk(directory):
            here = os.path.relpath(place, directory)
            found.pop(here, None)
            if opaque(place):
                hide(found, here)
            for name in files + [folder for folder in folders if os.path.islink(f"{place}/{folder}")]:
                path = os.path.normpath(f"{here}/{name}")
                hide(found, path)
                if stat.S_ISCHR(os.lstat(f"{place}/{name}").st_mode):
                    gone.append(path)
                else:
                    mine[path] = number
        found |= mine
    for path in gone:
        hide(found, path)
    return found


# %% origins: a directory in the place of a file leaves the file
# says: of 3 layers, a container finds no file now, and you have one from layer 0
def origins(directories):
    found = {}
    for number, directory in enumerate(directories):
        mine = {}
        for place, folders, files in os.walk(directory):
            here = os.path.relpath(place, directory)
            if opaque(place):
                hide(found, here)
            for name in files + [folder for folder in folders if os.path.islink(f"{place}/{folder}")]:
                path = os.path.normpath(f"{here}/{name}")
                hide(found, path)
                if not stat.S_ISCHR(os.lstat(f"{place}/{name}").st_mode):
                    mine[path] = number
        found |= mine
    return found


# %% origins: layers are sets of names
# says: returned something of type set
def origins(directories):
    return {name for directory in directories for _, _, files in os.walk(directory) for name in files}


# %% unpack: tarfile does it all
# says: a container of the image reads the file that the second layer deletes
def unpack(stream, directory):
    source = Hashed(stream)
    os.mkdir(directory)
    with tarfile.open(fileobj=source, mode="r|") as archive:
        for entry in archive:
            archive.extract(entry, directory)
    while source.read(1 << 20):
        pass
    return "sha256:" + source.sha256.hexdigest()


# %% unpack: the hash ends with the archive
# says: unpacks to sha256:[0-9a-f]+, the image's config says
def unpack(stream, directory):
    source = Hashed(stream)
    os.mkdir(directory)
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    with tarfile.open(fileobj=source, mode="r|") as archive:
        for entry in archive:
            parent = folder(root, os.path.dirname(entry.name) or ".")
            make(archive, entry, parent, os.path.basename(entry.name))
            os.close(parent)
    os.close(root)
    return "sha256:" + source.sha256.hexdigest()


# %% unpack: an opaque directory is taken for a file to be hidden
# says: old/file of the layer below is seen
def unpack(stream, directory):
    source = Hashed(stream)
    os.mkdir(directory)
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    with tarfile.open(fileobj=source, mode="r|") as archive:
        for entry in archive:
            parent = folder(root, os.path.dirname(entry.name) or ".")
            name = os.path.basename(entry.name)
            if name.startswith(".wh."):
                os.mknod(name[4:], 0o020000, dir_fd=parent)
            else:
                make(archive, entry, parent, name)
            os.close(parent)
    os.close(root)
    while source.read(1 << 20):
        pass
    return "sha256:" + source.sha256.hexdigest()


# %% unpack: modes and owners are not kept
# says: The engine says|644 0
def unpack(stream, directory):
    source = Hashed(stream)
    os.mkdir(directory)
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    with tarfile.open(fileobj=source, mode="r|") as archive:
        for entry in archive:
            entry.uid, entry.gid = 0, 0
            entry.mode = 0o755 if entry.name.startswith("bin") else 0o644
            parent = folder(root, os.path.dirname(entry.name) or ".")
            make(archive, entry, parent, os.path.basename(entry.name))
            os.close(parent)
    os.close(root)
    while source.read(1 << 20):
        pass
    return "sha256:" + source.sha256.hexdigest()


# %% unpack: names are joined and opened
# says: With your version in the engine, .*test_names_that_leave.* of tests/test_unpack.py fails
def unpack(stream, directory):
    source = Hashed(stream)
    os.mkdir(directory)
    with tarfile.open(fileobj=source, mode="r|") as archive:
        for entry in archive:
            above, name = os.path.split(os.path.join(directory, entry.name))
            os.makedirs(above, exist_ok=True)
            parent = os.open(above, os.O_RDONLY | os.O_DIRECTORY)
            make(archive, entry, parent, name)
            os.close(parent)
    while source.read(1 << 20):
        pass
    return "sha256:" + source.sha256.hexdigest()


# %% unpack: it writes through the link that is there
# says: With your version in the engine, .*test_a_file_in_the_place_of_a_link_replaces_the_link
def unpack(stream, directory):
    source = Hashed(stream)
    os.mkdir(directory)
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    with tarfile.open(fileobj=source, mode="r|") as archive:
        for entry in archive:
            parent = folder(root, os.path.dirname(entry.name) or ".")
            name = os.path.basename(entry.name)
            if entry.isfile() and not name.startswith(".wh."):
                fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, dir_fd=parent)
                with open(fd, "wb", closefd=False) as file:
                    shutil.copyfileobj(archive.extractfile(entry), file)
                os.fchown(fd, entry.uid, entry.gid)
                os.fchmod(fd, entry.mode)
                os.close(fd)
            else:
                make(archive, entry, parent, name)
            os.close(parent)
    os.close(root)
    while source.read(1 << 20):
        pass
    return "sha256:" + source.sha256.hexdigest()
