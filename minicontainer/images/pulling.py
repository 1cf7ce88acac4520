"""Pull: from a name to an image whose layers are unpacked.

    name ─► index ─► manifest for this platform ─► config ─► the layers, several at a time ─► the name

The name comes last. Whatever happens before, the store is as it was, apart from blobs and layers that are whole; the
next pull uses these, and a collection takes them when nobody does.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from minicontainer.errors import ContainerError, ImageError, NotFoundError, UsageError
from minicontainer.images import progress as bars
from minicontainer.images import workers
from minicontainer.images.choosing import Resolved, resolve
from minicontainer.images.failures import RegistryError
from minicontainer.images.image import Image
from minicontainer.images.manifest import (
    MAX_DOCUMENT,
    OCI_MANIFEST,
    Config,
    Descriptor,
    Manifest,
    chain_ids,
)
from minicontainer.images.platforms import Platform
from minicontainer.images.reference import Reference
from minicontainer.images.registry import Registry
from minicontainer.images.settings import mirrors
from minicontainer.images.store import Entry, Store, host_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from minicontainer.images.credentials import Credentials
    from minicontainer.images.progress import Progress
    from minicontainer.images.session import Session
    from minicontainer.images.tar import Limits

    Notice = Callable[[str], None]


def pull(
    reference: str,
    *,
    platform: str = "",
    credentials: Credentials | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> Image:
    """Bring the image that `reference` names from its registry, unless it is here already; it comes back unpacked.

    `platform` is `os/architecture[/variant]`, this machine's unless given. `credentials` are a name and a password;
    otherwise those of `~/.docker/config.json`, if any. `limits` is what a layer may cost (`tar.Limits`). `progress` is
    called with events (`progress.Event`); None shows bars on a terminal and in a notebook. `notice` is called with
    what else is worth knowing, in words: a mirror that did not answer, few pulls left. Raises NotFoundError,
    ImageError, HostError.
    """
    store = Store()
    try:
        return _pull(store, Reference.parse(reference), platform, credentials, limits, progress, notice or _silent)
    except OSError as error:
        raise host_error(error, store.root) from error


def pull_all(repository: str, **how: Any) -> list[Image]:
    """Pull every tag of a repository, one after the other; `how` is as for `pull`. Raises what `pull` raises."""
    reference = Reference.parse(repository)
    if reference.digest or ":" in repository.rpartition("/")[2]:
        raise UsageError(
            f"{repository!r} names one image, all tags are asked for", hint="give the name without the tag"
        )
    with Registry(reference, credentials=how.get("credentials")) as registry:
        tags = registry.tags()
    if not tags:
        raise NotFoundError(f"{reference.registry} has no tag of {reference.repository}", hint="check the name")
    return [pull(f"{reference.registry}/{reference.repository}:{tag}", **how) for tag in tags]


def _pull(
    store: Store,
    reference: Reference,
    platform: str,
    credentials: Credentials | None,
    limits: Limits | None,
    progress: Progress | None,
    notice: Notice,
) -> Image:
    wanted = Platform.parse(platform) if platform else Platform.host()
    with ExitStack() as stack:
        session = stack.enter_context(store.session())
        for mirror in [*mirrors(reference.registry), ""]:
            registry = stack.enter_context(Registry(reference, credentials=credentials, mirror=mirror))
            try:
                found, manifest, config_document = _documents(store, session, registry, wanted)
                break
            except (RegistryError, NotFoundError) as error:
                if not mirror:
                    raise
                notice(f"the mirror {mirror} is passed over: {error.message}")
        if registry.limit and registry.limit.is_low:
            notice(f"{registry.name}: {registry.limit}")
        document = found.document
        config = Config.parse(config_document, len(manifest.layers))
        if config.platform.architecture and not wanted.accepts(config.platform):
            raise ImageError(
                f"{reference.familiar} is an image for {config.platform}, not for {wanted}",
                hint=f"ask for the platform {config.platform} if that is meant",
            )
        chain = chain_ids(config.diff_ids)
        session.needs(chain)
        fetch_layers(
            store,
            session,
            manifest,
            config,
            chain,
            registry=registry,
            credentials=credentials,
            limits=limits,
            progress=progress,
        )
        if found.index:
            store.keep_document(found.index, session)  # nothing needs it, but whoever wants to know what there was
        store.keep_document(config_document, session)
        verbatim = store.keep_document(document, session)
        twin = manifest.twin()
        digest = store.keep_document(twin, session) if twin else verbatim
        entry = Entry(
            Descriptor(OCI_MANIFEST, digest, len(twin or document)),
            reference.name,
            digest=found.digest,
            verbatim=verbatim if twin else "",
            layers=chain,
            platform=config.platform if config.platform.architecture else None,
        )
        store.put(entry)
        return Image(store, entry)


def _documents(
    store: Store, session: Session, registry: Registry, wanted: Platform
) -> tuple[Resolved, Manifest, bytes]:
    """What is to be known before the layers: the manifest for our platform, read, and the config."""
    found = resolve(registry, registry.reference.target, wanted)
    try:
        manifest = Manifest.parse(found.document, found.media_type)
    except ImageError as error:
        raise ImageError(f"{registry.reference.familiar}: {error.message}", hint=error.hint) from None
    session.needs([manifest.config.digest, *(layer.digest for layer in manifest.layers)])
    return found, manifest, _config(store, registry, manifest.config)


def _config(store: Store, registry: Registry, descriptor: Descriptor) -> bytes:
    if store.has(descriptor) and descriptor.size <= MAX_DOCUMENT:
        return store.document(descriptor.digest)
    return registry.document(descriptor)


def fetch_layers(
    store: Store,
    session: Session,
    manifest: Manifest,
    config: Config,
    chain: list[str],
    *,
    registry: Registry | None = None,
    credentials: Credentials | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> None:
    """Bring what the store lacks of the layers, as blobs and unpacked. Without a registry: unpack the blobs."""
    show, end = bars.begin(progress)
    jobs: list[dict[str, Any]] = []
    for number, (layer, diff_id, chain_id) in enumerate(zip(manifest.layers, config.diff_ids, chain, strict=True)):
        if store.has(layer) and os.path.isdir(store.layer(chain_id)):
            show(bars.Event(layer.digest, "exists", layer.size, layer.size))
            continue
        jobs.append(
            {
                "number": number,
                "root": store.root,
                "session": session.path,
                "media_type": layer.media_type,
                "digest": layer.digest,
                "size": layer.size,
                "urls": layer.urls,
                "diff_id": diff_id,
                "chain_id": chain_id,
                "reference": registry.reference.name if registry else "",
                "mirror": registry.mirror if registry else "",
                "credentials": credentials,
                "authorization": registry.authorizer.headers if registry else {},
                "limits": vars(limits) if limits else {},
            }
        )

    def report(answer: dict[str, Any]) -> None:
        layer = manifest.layers[answer["number"]]
        current = layer.size if answer["status"] == "done" else answer["current"]
        show(bars.Event(layer.digest, answer["status"], current, layer.size))

    try:
        workers.run(jobs, report)
    except RegistryError:
        raise  # another attempt may go on with what has come of them
    except (ContainerError, OSError):
        ours = {job["digest"] for job in jobs}
        store.forget_partials(lambda digest: digest not in ours)
        raise
    finally:
        end()


def unpack_layers(store: Store, entry: Entry) -> Entry:
    """Unpack an image that another tool has put into the store, from its blobs; its entry with the layers."""
    try:
        with store.session() as session:
            manifest = Manifest.parse(store.document(entry.manifest.digest), entry.manifest.media_type)
            config = Config.parse(store.document(manifest.config.digest), len(manifest.layers))
            chain = chain_ids(config.diff_ids)
            session.needs([entry.manifest.digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)])
            session.needs(chain)
            fetch_layers(store, session, manifest, config, chain)
            whole = Entry(
                entry.manifest,
                entry.name,
                digest=entry.digest,
                verbatim=entry.verbatim,
                layers=chain,
                platform=entry.platform,
            )
            if not any(other.manifest.digest == entry.manifest.digest for other in store.entries()):
                raise NotFoundError(f"image {entry.name} was removed meanwhile", hint="pull it again")
            store.put(whole)
            return whole
    except OSError as error:
        raise host_error(error, store.root) from error


def _silent(line: str) -> None:
    """Nobody wants to hear it."""
