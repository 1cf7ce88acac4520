"""The fixtures that more than one file of tests uses."""

from programs import mark, program
from registry import busybox_image, password_registry, registry, token_registry
from roots import rootfs, shared_path

__all__ = [
    "busybox_image",
    "mark",
    "password_registry",
    "program",
    "registry",
    "rootfs",
    "shared_path",
    "token_registry",
]
