"""TLS to registries: whom we believe, and who we are, in Docker's layout.

    /etc/docker/certs.d/registry.lan:5000/
        ca.crt                     *.crt: authorities to believe besides the system's
        client.cert, client.key    *.cert and *.key: who we are, to a registry that asks for it

The directory is the registry's name as a reference has it; one for a registry on port 443 has no port. Nothing here
switches verification off: a registry with a certificate of its own needs only its `ca.crt`, or to be listed as
insecure, which means plain HTTP. (https://docs.docker.com/engine/security/certificates)
"""

from __future__ import annotations

import os
import ssl

from minicontainer.errors import ImageError
from minicontainer.images import settings


def context(host: str, port: int) -> ssl.SSLContext:
    """How to speak TLS to this registry. Raises ImageError when what its directory holds is of no use."""
    found = ssl.create_default_context()
    written = f"[{host}]" if ":" in host else host
    names = [f"{written}:{port}", written] if port == 443 else [f"{written}:{port}"]
    directory = next(filter(None, map(settings.certificates, names)), "")
    if not directory:
        return found
    files = sorted(os.listdir(directory))
    for name in files:
        stem, kind = os.path.splitext(f"{directory}/{name}")
        try:
            if kind == ".crt":
                found.load_verify_locations(f"{stem}.crt")
            elif kind == ".cert":
                found.load_cert_chain(f"{stem}.cert", f"{stem}.key")
        except FileNotFoundError:
            raise ImageError(
                f"{stem}.cert has no {stem}.key beside it", hint="a client certificate needs its key"
            ) from None
        except ssl.SSLError as error:
            raise ImageError(
                f"{directory}/{name} cannot be used: {error.reason or error}", hint="it must be PEM, and a key its own"
            ) from None
        if kind == ".key" and f"{os.path.splitext(name)[0]}.cert" not in files:
            raise ImageError(f"{stem}.key has no {stem}.cert beside it", hint="a client's certificate is named *.cert")
    return found
