"""What a submission says of its caller's trace, what the API tells of a job's, what doctor says of where they go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing

import pytest
from sqlalchemy import select

from pipeline.cli.doctor import examine
from pipeline.store.tables import campaigns
from pipeline.traces import ids
from pipeline.transport.port import Transport, open_transport
from schemas.api import JobQuery
from schemas.campaign import Campaign
from schemas.messages import JobsReceived, decode
from tests.api_server import RunningApi, running_api
from tests.otlp import running_receiver

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("api"), traces_url="http://127.0.0.1:4318", traces_share=1.0) as running:
        yield running


@pytest.mark.parametrize(("header", "kept"), [(CALLER, CALLER), ("", None), ("no traceparent", None)])
def test_a_submission_keeps_its_callers_traceparent_and_a_job_tells_its_own_trace(
    api: RunningApi, header: str, kept: str | None
) -> None:
    one = Campaign.model_validate({"campaign": "c", "steps": [{"name": "s", "command": ["true"]}]})
    with api.client() as client, opened(api.services.settings.broker_url) as broker:
        campaign_id = client.submit(one, traceparent=header).campaign_id
        (delivery,) = broker.receive("optimisation", 10, 10.0)
        broker.acknowledge([delivery])
        (found,) = client.jobs(JobQuery(campaign=campaign_id)).items
        view = client.job(found.id)
    assert decode(delivery.payload, {"JobsReceived": JobsReceived}).trace == kept
    stored = api.database.read(lambda tx: tx.scalar(select(campaigns.c.trace).where(campaigns.c.id == campaign_id)))
    assert stored == kept
    assert view.trace_id == ids.trace_id(view.id, view.created_at)


def opened(broker_url: str) -> AbstractContextManager[Transport]:
    """A connection to the API's broker."""
    return closing(open_transport(broker_url, "test"))


def test_doctor_tells_whether_the_place_for_traces_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_receiver() as receiver:
        monkeypatch.setenv("PENSTOCK_TRACES_URL", receiver.url)
        found = examine()[-1]
        assert (found.ok, found.detail) == (True, f"{receiver.url} answered; 1.00% of jobs are traced")
        receiver.status = 403
        found = examine()[-1]
        assert (found.check, found.ok) == ("traces", False)
        assert "403" in found.detail
