"""Chapter 9. What runc is: an OCI runtime.

Engines (Docker, containerd, Podman) do not make containers. They prepare a *bundle*, a directory with a root and a
`config.json` that says everything about the process to be, and call a small program which makes it so and ends:

    minicontainer-runtime create --bundle DIR ID     config.json → parts → a process that is sealed, and waits
    minicontainer-runtime start ID                   it becomes its command
    minicontainer-runtime kill ID, delete ID         a signal; what is left of it goes

Nobody of ours stays: the container's process is inherited by whoever called (`create` ends, and its orphan goes to
the nearest subreaper: an engine's shim, or init). All that is remembered is a directory with `state.json`.

The command line is runc's, so that an engine can call one in place of the other. The format of `config.json` and the
states are the OCI runtime specification's, https://github.com/opencontainers/runtime-spec.

Files of this chapter: `installed/bin/minicontainer-runtime` (what engines call: a script that starts Python), `sealed`
(before anything else: the runtime's own program is out of reach), `together` (its modules in one file), `cli` (how it
is asked), `verbs` (what can be asked for), `shape` and `translate` (config.json → parts), `namespaces`, `entering` and
`mapping` (user namespaces, and who is not root), `rootfs`, `mounts`, `mounting` and `nodes`, `cgroup`, `groups` and
`resources`, `net_devices`, `hooks`, `hold` (between create and start), `console`, `identity`, `scheduling`,
`memory_policy` (parts of this chapter), `creating` and `joining` (the host's side of create and exec), `states` (what
is remembered), `log` (what is said besides).
"""
