"""The HTTP client of the CLI: one method per route, what can be repeated is repeated, errors are PenstockErrors."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import BaseModel, ValidationError

from pipeline.errors import ApiUnavailable, BadInput, Conflict, Forbidden, NotFound, Unauthorized
from pipeline.settings import Settings
from schemas import api
from schemas.campaign import Campaign
from schemas.drain_views import DrainLifted, DrainPage, DrainQuery, DrainReport, DrainRequest, DrainScope
from schemas.match_views import MatchRequest, MatchView
from schemas.pilot_views import (
    LogWanted,
    PilotDetail,
    PilotKill,
    PilotLog,
    PilotOrder,
    PilotPage,
    PilotQuery,
    PilotsChanged,
    PilotSelection,
    PilotsOrdered,
)
from schemas.plan_views import PlanQuery, PlanView
from schemas.policy import Policy
from schemas.share_views import LimitsView, PolicyDiff, PolicyView, SharesView
from schemas.site_views import Allowed, AllowRequest, BanRequest, BanView, OnlyRequest, SitesDiff, SitesView
from schemas.sites import SitesFile
from schemas.why_views import JobWhy

M = TypeVar("M", bound=BaseModel)

_CHANCE = random.SystemRandom()
TRIES = 6
"""With the waits between them 3 to 6 s: about as long as an API takes that is started again."""
TIMEOUT = 30.0
SUBMIT_TIMEOUT = 300.0
"""Seconds: a campaign of a million jobs is stored in one request."""
_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_DOWN = frozenset({502, 503, 504})
_ERRORS: Mapping[int, type[BadInput]] = {401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict}


class Client:
    """A connection to the API at `url`. Every call may raise ApiUnavailable, Unauthorized and Forbidden."""

    def __init__(self, url: str, token: str, *, tries: int = TRIES, timeout: float = TIMEOUT) -> None:
        self.url = url.rstrip("/")
        self._tries = tries
        secure = not self.url.startswith("http://")  # without TLS, reading the certificates is 0.1 s for nothing
        headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, verify=secure)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections up."""
        self._http.close()

    def submit(
        self,
        description: Campaign,
        sandboxes: Mapping[str, str] | None = None,
        *,
        key: str | None = None,
        traceparent: str | None = None,
    ) -> api.SubmitReply:
        """Submit a campaign. It is stored once, however often the request has to be repeated. Raises BadInput."""
        body = api.SubmitRequest(description=description, sandboxes=dict(sandboxes or {}))
        headers = {"Idempotency-Key": key or str(uuid4())} | ({"traceparent": traceparent} if traceparent else {})
        return self._send("POST", "/v1/campaigns", api.SubmitReply, body, headers, timeout=SUBMIT_TIMEOUT)

    def campaigns(self, query: api.CampaignQuery | None = None) -> api.CampaignPage:
        """A page of campaigns, the newest first."""
        return self.get("/v1/campaigns", api.CampaignPage, query)

    def campaign(self, campaign_id: int) -> api.CampaignView:
        """A campaign with its steps. Raises NotFound."""
        return self.get(f"/v1/campaigns/{campaign_id}", api.CampaignView)

    def command(self, campaign_id: int, word: str) -> api.Commanded:
        """pause, resume, cancel or retry a campaign. Raises NotFound, Conflict."""
        return self.post(f"/v1/campaigns/{campaign_id}/{word}", api.Commanded)

    def accept(self, campaign_id: int, step: str) -> api.Commanded:
        """Close a blocked step as it is. Raises NotFound, BadInput, Conflict."""
        return self.post(f"/v1/campaigns/{campaign_id}/accept", api.Commanded, api.AcceptRequest(step=step))

    def jobs(self, query: api.JobQuery | None = None) -> api.JobPage:
        """A page of jobs, by id."""
        return self.get("/v1/jobs", api.JobPage, query)

    def every_job(self, query: api.JobQuery) -> Iterator[api.JobSummary]:
        """All jobs that meet `query`, a page at a time."""
        after: int | None = query.after
        while after is not None:
            page = self.jobs(query.model_copy(update={"after": after, "limit": api.MAX_PAGE}))
            yield from page.items
            after = page.next

    def job(self, job_id: int) -> api.JobView:
        """A job with its history. Raises NotFound."""
        return self.get(f"/v1/jobs/{job_id}", api.JobView)

    def why(self, job_id: int) -> JobWhy:
        """Why a job is in its state. Raises NotFound."""
        return self.get(f"/v1/jobs/{job_id}/why", JobWhy)

    def logs(self, job_id: int, attempt: int | None = None) -> api.JobLogs:
        """What an attempt wrote to standard output and error; None: the running or newest one. Raises NotFound."""
        found = self.get(f"/v1/jobs/{job_id}/logs", api.JobLogs, api.LogsQuery(attempt=attempt))
        if attempt is not None and found.attempt != attempt:
            raise ApiUnavailable(
                f"the API at {self.url} is of a release before 0.5.0, which shows attempt {found.attempt} of job "
                f"{job_id} alone; upgrade it, or ask for no attempt"
            )
        return found

    def archive(self, job_id: int) -> bytes:
        """The newest archive of a job, a tar.gz for `pipeline.unpacking.unpack`. Raises NotFound."""
        return self.request("GET", f"/v1/jobs/{job_id}/archive").content

    def outputs(self, job_id: int) -> Sequence[api.FileView]:
        """The registered outputs of a job. Raises NotFound."""
        return self.get(f"/v1/jobs/{job_id}/outputs", api.JobOutputs).items

    def kill(self, selection: api.JobSelection) -> api.Changed:
        """Kill every job that the selection means. Raises BadInput for an empty one."""
        return self.post("/v1/jobs/kill", api.Changed, selection, again=True)

    def retry(self, selection: api.JobSelection) -> api.Changed:
        """Receive every failed job that the selection means again. Raises BadInput for an empty one."""
        return self.post("/v1/jobs/retry", api.Changed, selection, again=True)

    def upload_sandbox(self, content: bytes) -> str:
        """Send a tar.gz unless the API has it; its sha256. Raises BadInput when it is too large."""
        digest = hashlib.sha256(content).hexdigest()
        try:
            self.request("HEAD", f"/v1/sandboxes/{digest}")
        except NotFound:
            headers = {"Content-Type": "application/gzip"}
            self.request("PUT", f"/v1/sandboxes/{digest}", content=content, headers=headers, timeout=SUBMIT_TIMEOUT)
        return digest

    def files(self, query: api.FileQuery | None = None) -> api.FilePage:
        """A page of catalogue files, by id."""
        return self.get("/v1/files", api.FilePage, query)

    def create_token(self, wanted: api.TokenRequest) -> api.TokenReply:
        """Make a token; the answer shows it this once."""
        return self.post("/v1/tokens", api.TokenReply, wanted)

    def tokens(self, query: api.Page | None = None) -> api.TokenPage:
        """A page of tokens, by id."""
        return self.get("/v1/tokens", api.TokenPage, query)

    def revoke_token(self, token_id: int) -> api.TokenView:
        """Revoke a token. Raises NotFound."""
        return self._parsed(self.request("DELETE", f"/v1/tokens/{token_id}"), api.TokenView)

    def whoami(self) -> api.WhoAmI:
        """Whose token this is."""
        return self.get("/v1/whoami", api.WhoAmI)

    def instances(self) -> api.InstanceList:
        """Every process."""
        return self.get("/v1/instances", api.InstanceList)

    def queues(self) -> api.QueueList:
        """How full the queues are."""
        return self.get("/v1/queues", api.QueueList)

    def sites(self) -> SitesView:
        """Every site with its queues, storages and bans."""
        return self.get("/v1/sites", SitesView)

    def apply_sites(self, wanted: SitesFile, *, dry_run: bool = False) -> SitesDiff:
        """Declare what the file says; the difference. Raises BadInput."""
        return self.post(f"/v1/sites/apply?dry_run={str(dry_run).lower()}", SitesDiff, wanted, again=True)

    def ban_site(self, site: str, ban: BanRequest) -> BanView:
        """Let nothing new of the VO go to a site or one of its queues. Raises NotFound, Forbidden for another VO."""
        return self.post(f"/v1/sites/{quote(site, safe='')}/ban", BanView, ban)

    def test_site(self, site: str, test: OnlyRequest) -> BanView:
        """Let only jobs of one type of the VO go there. Raises NotFound, Forbidden for another VO."""
        return self.post(f"/v1/sites/{quote(site, safe='')}/test", BanView, test)

    def allow_site(self, site: str, scope: AllowRequest) -> Allowed:
        """Lift the VO's bans within a scope. Raises NotFound, Forbidden for another VO."""
        return self.post(f"/v1/sites/{quote(site, safe='')}/allow", Allowed, scope, again=True)

    def pilots(self, query: PilotQuery | None = None) -> PilotPage:
        """A page of pilots, the newest first."""
        return self.get("/v1/pilots", PilotPage, query)

    def pilot(self, pilot_id: int) -> PilotDetail:
        """All that is known of a pilot. Raises NotFound."""
        return self.get(f"/v1/pilots/{pilot_id}", PilotDetail)

    def pilot_log(self, pilot_id: int) -> PilotLog:
        """A pilot's output as it was fetched last. Raises NotFound, also where it was never fetched."""
        return self.get(f"/v1/pilots/{pilot_id}/log", PilotLog)

    def want_pilot_log(self, pilot_id: int) -> LogWanted:
        """Let a pilot's output be fetched anew. Raises NotFound."""
        return self.post(f"/v1/pilots/{pilot_id}/log", LogWanted, again=True)

    def submit_pilots(self, order: PilotOrder) -> PilotsOrdered:
        """Request pilots, once, however often it has to be repeated. Raises NotFound, BadInput, Conflict."""
        return self._send("POST", "/v1/pilots/submit", PilotsOrdered, order, {"Idempotency-Key": str(uuid4())})

    def drain_pilots(self, selection: PilotSelection) -> PilotsChanged:
        """Let pilots end after the jobs that they have. Raises BadInput for an empty selection, NotFound."""
        return self.post("/v1/pilots/drain", PilotsChanged, selection, again=True)

    def kill_pilots(self, selection: PilotKill) -> PilotsChanged:
        """Drain pilots, or end them at once. Raises BadInput for an empty selection, NotFound."""
        return self.post("/v1/pilots/kill", PilotsChanged, selection, again=True)

    def drains(self, query: DrainQuery | None = None) -> DrainPage:
        """A page of the VO's drains and of those of everybody, the newest first."""
        return self.get("/v1/drains", DrainPage, query)

    def drain(self, drain_id: int) -> DrainReport:
        """A drain, and what is left of it. Raises NotFound."""
        return self.get(f"/v1/drains/{drain_id}", DrainReport)

    def start_drain(self, wanted: DrainRequest) -> DrainReport:
        """Drain the VO, everywhere or at a site. Raises NotFound, Forbidden for another VO."""
        return self.post("/v1/drains", DrainReport, wanted, again=True)

    def lift_drain(self, scope: DrainScope) -> DrainLifted:
        """Take such a drain back. Raises Forbidden for another VO."""
        return self.post("/v1/drains/lift", DrainLifted, scope, again=True)

    def plan(self, query: PlanQuery | None = None) -> PlanView:
        """What provisioning would do now; nothing is done."""
        return self.get("/v1/provisioning/plan", PlanView, query)

    def policy(self) -> PolicyView:
        """The VO's shares and limits as they were applied last."""
        return self.get("/v1/policy", PolicyView)

    def apply_policy(self, wanted: Policy, *, dry_run: bool = False) -> PolicyDiff:
        """Declare the VO's shares and limits; the difference. Raises BadInput."""
        return self.put(f"/v1/policy?dry_run={str(dry_run).lower()}", PolicyDiff, wanted)

    def shares(self) -> SharesView:
        """What each group and owner of the VO is to get, and what it got."""
        return self.get("/v1/shares", SharesView)

    def limits(self) -> LimitsView:
        """Every limit that concerns the VO."""
        return self.get("/v1/limits", LimitsView)

    def match(self, wanted: MatchRequest) -> MatchView:
        """What a node would get now; nothing is assigned. Raises BadInput."""
        return self.post("/v1/match", MatchView, wanted, again=True)

    def get(self, path: str, reply: type[M], query: BaseModel | None = None) -> M:
        """Ask for what is at `path`."""
        params = {} if query is None else query.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        return self._parsed(self.request("GET", path, params=params), reply)

    def post(self, path: str, reply: type[M], body: BaseModel | None = None, *, again: bool = False) -> M:
        """Send `body` to `path`. `again`: to say it twice changes no more than to say it once, though the answer to a
        repetition may count less; so it is repeated where nobody knows whether it arrived."""
        return self._send("POST", path, reply, body, again=again)

    def put(self, path: str, reply: type[M], body: BaseModel) -> M:
        """Let what is at `path` be `body`."""
        return self._send("PUT", path, reply, body)

    def _send(
        self,
        method: str,
        path: str,
        reply: type[M],
        body: BaseModel | None,
        headers: Mapping[str, str] = {},
        **options: Any,
    ) -> M:
        content = None if body is None else body.model_dump_json()
        if content is not None:
            headers = {**headers, "Content-Type": "application/json"}
        return self._parsed(self.request(method, path, content=content, headers=headers, **options), reply)

    def request(self, method: str, path: str, *, again: bool = False, **options: Any) -> httpx.Response:
        """One answer that is no error; `options` are httpx's. Repeats, with back-off, what may be repeated, and what
        was never sent.

        Raises ApiUnavailable, and BadInput or its subclass that goes with the status.
        """
        repeatable = again or method in _REPEATABLE or "Idempotency-Key" in options.get("headers", {})
        for attempt in range(1, self._tries + 1):
            try:
                answer = self._http.request(method, path, **options)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise BadInput(f"PENSTOCK_API_URL: {self.url!r} is no URL of an API: {error}") from error
            except httpx.TransportError as error:
                unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if attempt == self._tries or not (repeatable or unsent):
                    raise self._unreachable(error) from error
            else:
                if answer.status_code not in _DOWN or attempt == self._tries or not repeatable:
                    return _checked(self.url, answer)
            time.sleep(_CHANCE.uniform(0.5, 1.0) * min(5.0, 0.1 * 2**attempt))
        raise AssertionError("unreachable: the loop returns or raises")

    def _parsed(self, answer: httpx.Response, reply: type[M]) -> M:
        try:
            return reply.model_validate_json(answer.content, extra="ignore")  # a newer release may say more
        except ValidationError as error:
            raise ApiUnavailable(
                f"{self.url} did not answer as this release's API does ({error.error_count()} differences); "
                f"check PENSTOCK_API_URL and the versions"
            ) from error

    def _unreachable(self, error: httpx.TransportError) -> ApiUnavailable:
        why = str(error) or type(error).__name__
        return ApiUnavailable(
            f"the API at {self.url} can't be reached ({why}); start it with `penstock up` or `penstock api`, "
            f"or set PENSTOCK_API_URL"
        )


def open_client(settings: Settings) -> Client:
    """The client that the settings mean. Raises BadSettings when there is no URL or no token."""
    return Client(settings.resolved_api_url(), settings.resolved_token())


def _checked(url: str, answer: httpx.Response) -> httpx.Response:
    if answer.is_success or answer.status_code == httpx.codes.NOT_MODIFIED:
        return answer
    problem = _problem(answer)
    if answer.is_server_error:
        raise ApiUnavailable(f"the API at {url} failed ({problem.status}): {problem.detail}")
    kind = _ERRORS.get(answer.status_code, BadInput)
    raise kind(problem.detail, field=problem.errors[0].field if problem.errors else None)


def _problem(answer: httpx.Response) -> api.Problem:
    try:
        return api.Problem.model_validate_json(answer.content)
    except ValidationError:
        detail = f"{answer.status_code} {answer.reason_phrase} from {answer.url}"
        return api.Problem(title=answer.reason_phrase, status=answer.status_code, detail=detail)
