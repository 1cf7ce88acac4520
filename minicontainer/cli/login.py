"""Commands on who we are to registries: login, logout."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def _login_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-u", "--username", metavar="NAME", help="who you are there (asked for unless given)")
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument("-p", "--password", metavar="PASSWORD", help="everybody on this machine can see it in ps")
    secret.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    parser.add_argument("registry", nargs="?", default="", metavar="REGISTRY", help="Docker Hub unless given")


def _login(arguments: argparse.Namespace) -> int:
    from minicontainer.errors import UsageError
    from minicontainer.images.login import login

    name, password = arguments.username, arguments.password
    if arguments.password_stdin:
        if not name:
            raise UsageError("--password-stdin needs a name", hint="-u NAME")
        password = sys.stdin.read().rstrip("\r\n")
    elif password is not None:
        print("warning: whoever lists processes can read this password; --password-stdin is safer", file=sys.stderr)
    try:
        if not name:
            name = input("Username: ")
        if password is None:
            from getpass import getpass

            password = getpass("Password: ")
    except EOFError:
        raise UsageError("nobody is here to be asked for a name and a password", hint="-u, --password-stdin") from None
    place = login(arguments.registry, name, password)
    if place.endswith("/config.json"):
        print(
            f"warning: the password is kept unencrypted in {place}; a credential helper would hide it", file=sys.stderr
        )
    print("Login Succeeded")
    return 0


def _logout_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("registry", nargs="?", default="", metavar="REGISTRY", help="Docker Hub unless given")


def _logout(arguments: argparse.Namespace) -> int:
    from minicontainer.images.login import logout

    logout(arguments.registry)
    print("Login credentials removed")
    return 0


COMMANDS = {
    "login": (_login_arguments, _login),
    "logout": (_logout_arguments, _logout),
}
