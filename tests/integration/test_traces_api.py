"""What a submission says of its caller's trace, and what the API tells of a job's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing

import pytest
from sqlalchemy import select

from pipeline.store.tables import campaigns
from pipeline.traces import ids
from pipeline.transport.port import Transport, open_transport
from schemas.api import JobQuery
from schemas.campaign import Campaign
from schemas.messages import JobsReceived, decode
from tests.api_server import RunningApi, running_api

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
