"""The fixtures that more than one file of tests uses."""

from registry import busybox_image, password_registry, registry, token_registry

__all__ = ["busybox_image", "password_registry", "registry", "token_registry"]
