"""The fixtures that more than one file of tests uses."""

from bundles import bundle
from images import fake
from programs import mark, program
from registry import busybox_image, password_registry, registry, token_registry
from roots import rootfs, shared_path, shared_root
from stores import docker, home, podman, root

__all__ = [
    "bundle",
    "busybox_image",
    "docker",
    "fake",
    "home",
    "mark",
    "password_registry",
    "podman",
    "program",
    "registry",
    "root",
    "rootfs",
    "shared_path",
    "shared_root",
    "token_registry",
]
