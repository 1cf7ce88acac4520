# Wrong answers to lab 01: each stands in the exercise's place, and the check has to say why it is wrong.
# A cell begins with "# %% NAME: what is wrong about it"; "# says: " is a regular expression of what the check says.

# %% exit_status: a signal's number is taken for a status
# says: for `kill -TERM \$\$` yours is 15\nExpected: +143
def exit_status(result):
    return result.si_status


# %% exit_status: everything is a signal
# says: for `exit 0` yours is 128
def exit_status(result):
    return 128 + result.si_status


# %% exit_status: Python's way of saying it
# says: for `kill -TERM \$\$` yours is -15
def exit_status(result):
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


# %% run: the copy goes on when the program does not exist
# says: two processes came back from `run`
def run(argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        try:
            linux.execve(argv[0], argv, {})
        except OSError:
            return 127
    result = linux.waitid(pidfd)
    os.close(pidfd)
    return exit_status(result)


# %% run: the raw status of wait
# says: for `exit 3` yours is 768
def run(argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        try:
            linux.execve(argv[0], argv, {})
        finally:
            os._exit(127)
    os.close(pidfd)
    return os.waitpid(pid, 0)[1]


# %% run: it looks, but leaves the zombie
# says: it left 8 children \(a zombie counts\)
def run(argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        try:
            linux.execve(argv[0], argv, {})
        finally:
            os._exit(127)
    result = linux.waitid(pidfd, os.WEXITED | os.WNOWAIT)
    os.close(pidfd)
    return exit_status(result)


# %% run: it does not wait
# says: for `exit 3` yours is 0
def run(argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        try:
            linux.execve(argv[0], argv, {})
        finally:
            os._exit(127)
    return 0


# %% run: it becomes the program itself
# says: never came back from run
def run(argv):
    linux.execve(argv[0], argv, {})


# %% run: the environment is handed on
# says: the program was given \d+ variables
def run(argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        try:
            linux.execve(argv[0], argv, dict(os.environ))
        except OSError:
            os._exit(127)
    result = linux.waitid(pidfd)
    os.close(pidfd)
    return exit_status(result)


# %% output_of: nothing is returned
# says: None from a program that writes hello
def output_of(argv):
    os.waitpid(os.posix_spawn(argv[0], argv, {}), 0)


# %% output_of: its own copy of the writing end stays open
# says: had not ended after .* s, and was killed
def output_of(argv):
    reads, writes = os.pipe()
    pid, pidfd = linux.clone3()
    if pid == 0:
        linux.dup2(writes, 1)
        linux.execve(argv[0], argv, {})
    with open(reads, "rb") as file:
        text = file.read().decode()
    linux.waitid(pidfd)
    return text


# %% output_of: it waits before it reads
# says: had not ended after .* s, and was killed
def output_of(argv):
    reads, writes = os.pipe()
    pid, pidfd = linux.clone3()
    if pid == 0:
        linux.dup2(writes, 1)
        linux.execve(argv[0], argv, {})
    os.close(writes)
    linux.waitid(pidfd)
    os.close(pidfd)
    with open(reads, "rb") as file:
        return file.read().decode()


# %% output_of: one read
# says: characters of a long output\nExpected: +all 20000 lines
def output_of(argv):
    reads, writes = os.pipe()
    pid, pidfd = linux.clone3()
    if pid == 0:
        linux.dup2(writes, 1)
        linux.execve(argv[0], argv, {})
    os.close(writes)
    text = os.read(reads, 65536).decode()
    os.close(reads)
    linux.waitid(pidfd)
    os.close(pidfd)
    return text


# %% output_of: errors are taken for output
# says: hello\\nthis goes to descriptor 2
def output_of(argv):
    reads, writes = os.pipe()
    pid, pidfd = linux.clone3()
    if pid == 0:
        linux.dup2(writes, 1)
        linux.dup2(writes, 2)
        linux.execve(argv[0], argv, {})
    os.close(writes)
    with open(reads, "rb") as file:
        text = file.read().decode()
    linux.waitid(pidfd)
    os.close(pidfd)
    return text


# %% output_of: the pidfd and the reading end are forgotten
# says: 6 more descriptors are open than before: pidfd, pidfd, pidfd, pipe, pipe, pipe
def output_of(argv):
    reads, writes = os.pipe()
    pid, pidfd = linux.clone3()
    if pid == 0:
        linux.dup2(writes, 1)
        linux.execve(argv[0], argv, {})
    os.close(writes)
    text = b""
    while more := os.read(reads, 65536):
        text += more
    linux.waitid(pidfd)
    return text.decode()


# %% launch: the pid is not returned
# says: None came back
def launch(argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        linux.execve(argv[0], argv, {})


# %% launch: descriptors are forgotten
# says: it holds the descriptors 0, 1, 2, \d
def launch(argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        linux.execve(argv[0], argv, {})
    return pid


# %% launch: only the famous one is put back
# says: it ignores SIGINT
def launch(argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        linux.close_range(3)
        linux.execve(argv[0], argv, {})
    return pid


# %% launch: the mask is forgotten
# says: it blocks SIGTERM
def launch(argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        linux.close_range(3)
        linux.execve(argv[0], argv, {})
    return pid


# %% launch: a program in between
# says: parent is another process
def launch(argv):
    pid, pidfd = linux.clone3()
    if pid == 0:
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        linux.close_range(3)
        linux.execve("/bin/sh", ["sh", "-c", '"$@" & wait', "sh", *argv], {})
    while not (children := open(f"/proc/{pid}/task/{pid}/children").read()):
        pass
    return int(children)


# %% watch_over: it waits for the command alone
# says: reaps_orphans|forwards_signals
def watch_over(command, signals):
    status = os.waitpid(command, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


# %% watch_over: it reaps one for each SIGCHLD, and forwards nothing
# says: test_init_reaps_orphans|had not ended
def watch_over(command, signals):
    while True:
        signal.sigwait(signals)
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == command:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


# %% watch_over: the raw status
# says: 768 for a command that exits with 3
def watch_over(command, signals):
    while signal.sigwait(signals) == signal.SIGCHLD:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == command:
            return status


# %% watch_over: a signal's death is a negative number
# says: test_init_ends_as_the_command_does
def watch_over(command, signals):
    while True:
        number = signal.sigwait(signals)
        if number != signal.SIGCHLD:
            os.kill(command, number)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == command:
                return os.waitstatus_to_exitcode(status)
