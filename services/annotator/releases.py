"""What is new at a source: fetched, staged and accepted, once for all runs that wait for it."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.messages import RunFact
from services.annotator import domain
from services.annotator.domain import (
    ApiSource,
    Batch,
    BulkSource,
    Offered,
    Page,
    RemoteFile,
    Source,
)
from services.annotator.errors import (
    LeaseLost,
    RateLimited,
    ReleaseMissing,
    ReleaseQuarantined,
    ReleaseRefused,
    UpstreamShut,
)
from services.annotator.failpoints import Failpoint
from services.annotator.raw_store import RawStore
from services.annotator.settings import AnnotatorSettings
from services.annotator.stager import STAGINGS_MAX, Stager, open_stager
from services.annotator.store import (
    annotations,
    batches,
    catalogue,
    counting,
    previews,
    releases,
    runs,
    slices,
    staged,
)
from services.annotator.store.annotations import Origin
from services.annotator.store.releases import FetchedFile, Release
from services.annotator.upstream import Upstream, within
from services.chassis import database, failpoints, outbox
from services.chassis.errors import PermanentError, TransientError

log = structlog.get_logger()

RELEASE_FETCHING_SECONDS_MAX = 1_800.0  # All files of a release together.
EVENTS_PER_STATEMENT = 100  # A release may rename any number of genes; the loop has others.


@dataclass(frozen=True)
class Releases:
    settings: AnnotatorSettings
    engine: AsyncEngine
    sources: Mapping[str, Source]
    upstreams: Mapping[str, Upstream]
    raw_store: RawStore
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(STAGINGS_MAX))

    async def prepare_release(self, batch: Batch) -> list[RunFact]:
        """Find out what a source publishes now, and let the runs that wait for it go on.

        Every step leaves a row behind: after a crash the next attempt goes on from there.
        """
        source = self.sources[batch.source]
        if domain.is_api(source):
            return await self._prepare_api(batch, source)
        return await self._prepare_bulk(batch, source)

    async def _prepare_api(self, batch: Batch, source: ApiSource) -> list[RunFact]:
        version = await source.version(self.upstreams[batch.source])
        async with self.engine.begin() as tx:
            await annotations.lock_store(tx, batch.source)
            release_id = await releases.record_api_release(
                tx,
                batch.source,
                version.name,
                source.declaration.parser_version,
                version.synthetic,
            )
            await batches.finish_batch(tx, batch)
            facts = await counting.attach_runs(tx, batch.source, release_id, is_api=True)
            await runs.save_facts(tx, facts)
            await outbox.add(tx, *facts)
        return facts

    async def _prepare_bulk(self, batch: Batch, source: BulkSource) -> list[RunFact]:
        async with open_stager(self.settings, batch, self.room) as stager:
            try:
                release = await self._fetch(batch, source, stager)
            except (PermanentError, TransientError) as error:
                api = domain.fallback(source)
                if api is not None and domain.needs_stand_in(batch, error):
                    await self._ask_stand_in(batch, api, error)
                raise  # The files are tried again, for whoever was not answered.
            _require_believable(release)
            if await self._needs_staging(release, source, batch):
                await stager.stage(release)
                failpoints.hit(Failpoint.RELEASE_STAGED)
        async with self.engine.begin() as tx:
            await database.allow_long_transaction(tx)
            await annotations.lock_store(tx, batch.source)
            release = await releases.get_release(tx, release.id)
            await batches.finish_batch(tx, batch)
            _require_believable(release)
            if release.state == "fetched":
                raise ReleaseMissing(f"release {release.id} of {batch.source} was unstaged again")
            facts = await previews.preview_runs(tx, release)  # Before anything of it is stored.
            if not batch.is_dry:
                facts += await self._accept(tx, release, source)
            await runs.save_facts(tx, facts)
            await outbox.add(tx, *facts)
            failpoints.hit(Failpoint.ACCEPTANCE_WRITTEN)
        log.info("release_prepared", source=batch.source, version=release.version)
        return facts

    async def _accept(
        self, tx: AsyncConnection, release: Release, source: BulkSource
    ) -> list[RunFact]:
        if release.state == "staged":
            if source.declaration.is_catalogue:
                await self._rewrite_catalogue(tx, release)
            await releases.accept_release(tx, release.id)
            await slices.cut_slices(tx, release)
            await counting.detach_runs(tx, release.source, release.id)
        await slices.revive_slices(tx, release.id)
        return await counting.attach_runs(tx, release.source, release.id, is_api=False)

    async def _rewrite_catalogue(self, tx: AsyncConnection, release: Release) -> None:
        rewritten = await catalogue.rewrite_catalogue(tx, release.id)
        await outbox.add(tx, *domain.changes(release.source, release.id, rewritten.restated))
        for start in range(0, len(rewritten.events), EVENTS_PER_STATEMENT):
            await outbox.add(tx, *rewritten.events[start : start + EVENTS_PER_STATEMENT])
        log.info(
            "catalogue_rewritten",
            approved=rewritten.approved_count,
            **Counter(type(event).__name__ for event in rewritten.events),
        )

    async def _ask_stand_in(self, batch: Batch, api: ApiSource, error: Exception) -> None:
        """Whatever comes of it, it decides nothing about the files: they may be back before."""
        try:
            await self._ask_instead(batch, api)
        except PermanentError as refusal:
            log.warning("stand_in_failed", source=batch.source, error=repr(refusal))
        except (RateLimited, UpstreamShut) as shut:
            wait = domain.retry_after(batch, shut)
            if wait is None or isinstance(error, PermanentError):
                raise
            raise UpstreamShut(
                str(shut), min(wait.total_seconds(), domain.BACKOFF_SECONDS_MAX)
            ) from shut

    async def _ask_instead(self, batch: Batch, api: ApiSource) -> None:
        """Answer the runs that wait with few genes, all in one transaction.

        What is stored is a release that stays `fetched`: it never speaks for other genes. What
        files have said of a gene stays: they say more, and when they are back as they were, nobody
        reads them again.
        """
        async with self.engine.begin() as tx:
            waiting = await runs.waiting_for_few(tx, batch.source, domain.FALLBACK_GENES_MAX)
            wanted = {hgnc_id for few in waiting.values() for hgnc_id in few}
            genes = await catalogue.get_genes(tx, sorted(wanted))
        if not genes:
            return
        upstream = self.upstreams[api.declaration.name]
        version = await api.version(upstream)
        pages: list[Page] = []
        files: list[FetchedFile] = []
        for start in range(0, len(genes), api.page_size):
            page = await api.fetch(upstream, genes[start : start + api.page_size])
            sha256 = domain.digest(page.content)
            await self.raw_store.keep_bytes(page.content, sha256)
            pages.append(page)
            files.append(
                FetchedFile(f"page-{start}", page.url, None, None, sha256, len(page.content))
            )
        parser_version, changed = api.declaration.parser_version, list[str]()
        async with self.engine.begin() as tx:
            now = await annotations.lock_store(tx, batch.source)
            release_id = await releases.insert_fetched_release(
                tx,
                batch.source,
                parser_version,
                api.declaration.method,
                _hash_of_all(files),
                version.synthetic,
                files,
                version.name,
            )
            held = await annotations.list_held(tx, batch.source, [gene.hgnc_id for gene in genes])
            stored = (await releases.get_release(tx, release_id)).files
            for page, file in zip(pages, stored.values(), strict=True):
                offered = Offered()
                for answer in page.answers:
                    if answer.hgnc_id not in held:
                        offered.add(answer)
                origin = Origin(
                    release_id,
                    file.id,
                    batch.claimed_at,
                    parser_version,
                    run_id=None,
                    cause="upstream",
                    matched_by=api.declaration.identifier,
                )
                changed += await annotations.store_offered(tx, batch.source, offered, origin, now)
            if not await batches.renew_lease(tx, batch):
                raise LeaseLost(batch.id, batch.lease_token)
            facts = await counting.attach_runs(
                tx, batch.source, release_id, is_api=False, run_ids=list(waiting)
            )
            await runs.save_facts(tx, facts)
            await outbox.add(tx, *facts, *domain.changes(batch.source, release_id, changed))
        log.warning("asked_instead", source=batch.source, runs=len(waiting), genes=len(genes))

    async def _fetch(self, batch: Batch, source: BulkSource, stager: Stager) -> Release:
        """The source's newest release, with its bytes in the raw store."""
        async with self.engine.begin() as tx:
            accepted = await releases.accepted_release(tx, batch.source)
            if accepted is not None:  # It comes first, whatever is published now.
                return accepted
            known = await releases.newest_release(
                tx, batch.source, (file.name for file in source.files)
            )
        if known is not None and await self._is_to_be_read_anew(known, source):
            # By itself: so what our new parser changes is told from what upstream changes.
            async with self.engine.begin() as tx:
                return await self._read_anew(tx, known, source)
        async with (
            self.raw_store.workspace() as workspace,
            within(RELEASE_FETCHING_SECONDS_MAX, f"the release of {batch.source}"),
        ):
            # One by one: who is ill, or says when to come back, is asked once in an attempt.
            fetched = [
                await self._fetch_file(
                    batch, file, known, workspace, stager, is_last=file is source.files[-1]
                )
                for file in source.files
            ]
        files = [file for file, _ in fetched]
        synthetic = any(is_synthetic for _, is_synthetic in fetched)
        failpoints.hit(Failpoint.RELEASE_FETCHED)
        declared = source.declaration
        async with self.engine.begin() as tx:
            if (
                known
                and (known.parser_version, known.method)
                == (declared.parser_version, declared.method)
                and _same(known, files)
            ):
                if not batch.is_dry:  # Or what readers have would seem to be fresher.
                    await releases.mark_release_checked(tx, known.id)
                return known
            release_id = await releases.insert_fetched_release(
                tx,
                batch.source,
                declared.parser_version,
                declared.method,
                _hash_of_all(files),
                synthetic,
                files,
            )
            return await releases.get_release(tx, release_id)

    async def _is_to_be_read_anew(self, known: Release, source: BulkSource) -> bool:
        return (
            known.state == "stored"
            and known.method == source.declaration.method
            and known.parser_version != source.declaration.parser_version
            and await self.raw_store.holds(*(file.sha256 for file in known.files.values()))
        )

    async def _read_anew(self, tx: AsyncConnection, known: Release, source: BulkSource) -> Release:
        """The same bytes as a release of another parser version; the upstream was not asked."""
        release_id = await releases.insert_fetched_release(
            tx,
            known.source,
            source.declaration.parser_version,
            known.method,
            _hash_of_all([*known.files.values()]),
            known.synthetic,
            known.files.values(),
            checked_at=known.checked_at,
        )
        return await releases.get_release(tx, release_id)

    async def _fetch_file(
        self,
        batch: Batch,
        file: RemoteFile,
        known: Release | None,
        workspace: Path,
        stager: Stager,
        *,
        is_last: bool,
    ) -> tuple[FetchedFile, bool]:
        """A file as it is published now, and whether it is synthetic."""
        before = known.files.get(file.name) if known else None
        if before is not None and not await self.raw_store.holds(before.sha256):
            before = None  # Its bytes are gone: unchanged would leave us with nothing.
        is_conditional = before is not None and not batch.is_forced
        downloaded = await self.upstreams[batch.source].download(
            file,
            workspace,
            before.etag if before and is_conditional else None,
            before.last_modified if before and is_conditional else None,
        )
        if downloaded is None:
            assert known is not None  # Only a known file can be unchanged.
            assert before is not None
            return before, known.synthetic
        if (
            known is not None
            and before is not None
            and known.synthetic == downloaded.synthetic
            and await self._says_the_same(file, downloaded.path, before)
        ):
            return before, known.synthetic  # Its new bytes say nothing new: no release is of them.
        if is_last:
            await stager.start()
        await self.raw_store.keep(downloaded.path, downloaded.sha256)
        return (
            FetchedFile(
                name=file.name,
                url=downloaded.url,
                etag=downloaded.etag,
                last_modified=downloaded.last_modified,
                sha256=downloaded.sha256,
                bytes=downloaded.bytes,
                media_type=downloaded.media_type,
            ),
            downloaded.synthetic,
        )

    async def _says_the_same(self, file: RemoteFile, path: Path, before: FetchedFile) -> bool:
        """Whether nothing is another but what its source declares to be another each time."""
        varying = file.varying
        if varying is None:
            return False

        def compare() -> bool:
            kept = domain.identity(self.raw_store.open(before.sha256), varying)
            return domain.identity(path.open("rb"), varying) == kept

        return await asyncio.to_thread(compare)

    async def _needs_staging(self, release: Release, source: BulkSource, batch: Batch) -> bool:
        """Whether a release must be read again from its bytes, and if so, clears what was."""
        if batch.is_dry and release.state not in ("fetched", "staged"):
            return False  # Readers have it, or are getting it.
        async with self.engine.begin() as tx:
            catalogue_id = await catalogue.current_catalogue_id(tx)
            is_matched = source.declaration.is_catalogue or release.catalogue_id == catalogue_id
            if release.state == "stored":
                if is_matched and not batch.is_forced:
                    return False
                await slices.delete_slices(tx, release.id)
            elif release.state != "fetched" and await staged.is_staged(tx, release.id):
                # While it waited, for a person or after a dry run, the catalogue may have become
                # another.
                has_waited = release.is_decided or release.state == "staged"
                if is_matched or not has_waited:
                    return False
            await staged.unstage_release(tx, release.id)
        return True


def _require_believable(release: Release) -> None:
    """Raises ReleaseRefused and ReleaseQuarantined."""
    if release.state == "rejected":
        assert release.problem is not None  # Its table demands it of rejected ones.
        raise ReleaseRefused(str(release.problem["detail"]))
    if release.state == "quarantined":
        assert release.doubts is not None  # So here.
        doubts = "; ".join(
            f"{doubt['check']}: {doubt['found']}, accepted is {doubt['accepted']}"
            for doubt in release.doubts
        )
        raise ReleaseQuarantined(
            f"release {release.version} waits for a person to accept or reject it: {doubts}"
        )


def _same(known: Release, files: Sequence[FetchedFile]) -> bool:
    return {file.name: file.sha256 for file in known.files.values()} == {
        file.name: file.sha256 for file in files
    }


def _hash_of_all(files: Sequence[FetchedFile]) -> bytes:
    return hashlib.sha256(b"".join(sorted(file.sha256 for file in files))).digest()
