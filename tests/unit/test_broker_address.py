"""A broker's URL is taken apart without loss, refused with a reason, and never shown with a password."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from pipeline.errors import BadSettings
from pipeline.transport.address import BrokerAddress, parse_broker_address


def parse(url: str) -> BrokerAddress:
    options = {"heartbeat", "management", "cafile", "certfile", "keyfile"}
    return parse_broker_address(url, port=5672, user="guest", options=options)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("amqp://broker", [("broker", 5672)]),
        ("amqp://broker:1", [("broker", 1)]),
        ("amqp://broker:65535/", [("broker", 65535)]),
        ("amqp://broker:", [("broker", 5672)]),
        ("amqp://192.0.2.7:5673", [("192.0.2.7", 5673)]),
        ("amqp://[::1]", [("::1", 5672)]),
        ("amqp://[2001:db8::7]:5673/v", [("2001:db8::7", 5673)]),
        ("amqp://user:pass@[::1]:5673", [("::1", 5673)]),
        ("amqp://a,b:2,[::3]:3,[::4]", [("a", 5672), ("b", 2), ("::3", 3), ("::4", 5672)]),
    ],
)
def test_hosts_keep_their_order_and_ports(url: str, hosts: list[tuple[str, int]]) -> None:
    assert list(parse(url).hosts) == hosts


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("amqp://broker", ("guest", "guest", "/")),
        ("amqp://broker/", ("guest", "guest", "/")),
        ("amqp://broker/%2F", ("guest", "guest", "/")),
        ("amqp://broker/prod", ("guest", "guest", "prod")),
        ("amqp://broker/a%2Fb%40c%3Fd", ("guest", "guest", "a/b@c?d")),
        ("amqp://ann@broker", ("ann", "", "/")),
        ("amqp://ann:secret@broker/prod", ("ann", "secret", "prod")),
        ("amqp://ann%40x:p%40%2F%3A%3F%25%23@broker", ("ann@x", "p@/:?%#", "/")),
        ("amqp://ann:a:b@broker", ("ann", "a:b", "/")),
        ("amqp://ann:a@b@broker", ("ann", "a@b", "/")),
        ("amqp://ann:a#b@broker", ("ann", "a#b", "/")),
        ("amqp://:secret@broker", ("guest", "secret", "/")),
        ("amqp://ann:%C4%8D@broker", ("ann", "č", "/")),
    ],
)
def test_user_password_and_vhost_are_decoded(url: str, login: tuple[str, str, str]) -> None:
    address = parse(url)
    assert (address.user, address.password, address.vhost) == login


@pytest.mark.parametrize(
    "url",
    [
        "amqp://",
        "amqp:///vhost",
        "amqp:broker",
        "amqp://broker:0",
        "amqp://broker:65536",
        "amqp://broker:-1",
        "amqp://broker:5672:5673",
        "amqp://broker:port",
        "amqp://a,,b",
        "amqp://a,",
        "amqp://::1",
        "amqp://[::1",
        "amqp://[::1]x",
        "amqp://user@",
        "amqp://a b",
        "amqp://user:pass@broker:port",
    ],
)
def test_a_host_or_port_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(BadSettings, match=r"PENSTOCK_BROKER_URL.*HOST:PORT"):
        parse(url)


def test_options_are_decoded_and_an_unknown_one_is_refused_with_those_that_there_are() -> None:
    assert parse("amqp://broker?heartbeat=5&cafile=%2Fa%20b").options == {"heartbeat": "5", "cafile": "/a b"}
    with pytest.raises(BadSettings, match=r"no option 'heartbeet'; there are cafile, .*heartbeat"):
        parse("amqp://broker?heartbeet=5")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://ann:s3cret@broker:1/prod?heartbeat=5", "amqp://ann:***@broker:1/prod?heartbeat=5"),
        ("amqp://:s3cret@broker", "amqp://:***@broker"),
        ("amqp://ann:x@s3cret@broker", "amqp://ann:***@broker"),
        ("amqp://broker?management=http://ann:s3cret@broker:2", "amqp://broker?management=http://ann:***@broker:2"),
        ("amqp://ann@broker,other", "amqp://ann@broker,other"),
    ],
)
def test_the_password_is_not_shown(url: str, shown: str) -> None:
    address = parse(url)
    assert address.shown == shown
    assert "s3cret" not in repr(address).replace(repr(dict(address.options)), "")


@pytest.mark.parametrize(
    "url",
    [
        "amqp://ann:s3cret@broker:port",
        "amqp://ann:s3cret@broker?unknown=1",
        "amqp://ann:s3cret/s3cret@broker",
        "amqp://ann:12/s3cret@broker:5672/prod",
        "amqp://ann:s3cret?s3cret@broker:5672",
        "amqp://ann:12?s3cret@broker:5672",
        "amqp://ann:s3cret",
        "amqp://ann:s3cret@broker?managment=http://ann:s3cret@broker",
    ],
)
def test_a_refused_url_does_not_show_what_may_be_a_password(url: str) -> None:
    with pytest.raises(BadSettings) as caught:
        parse(url)
    assert "s3cret" not in str(caught.value)


def test_seconds_are_positive_numbers() -> None:
    assert parse("amqp://broker").seconds("heartbeat", 30.0) == 30.0
    assert parse("amqp://broker?heartbeat=0.5").seconds("heartbeat", 30.0) == 0.5
    for wrong in ("", "0", "-1", "nan", "inf", "soon"):
        with pytest.raises(BadSettings, match=f"heartbeat='{wrong}' must be a positive number of seconds"):
            parse(f"amqp://broker?heartbeat={wrong}").seconds("heartbeat", 30.0)


def test_the_tls_context_verifies_and_names_files_that_it_cannot_read(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    url = f"amqps://broker?cafile={tmp_path}/ca.pem&certfile={tmp_path}/client.pem"
    context = parse(url).tls_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert [found["subject"] for found in context.get_ca_certs()] != []
    for wrong in (f"cafile={tmp_path}/none.pem", f"cafile={tmp_path}", f"certfile={tmp_path}/ca.pem"):
        with pytest.raises(BadSettings, match=f"PENSTOCK_BROKER_URL: {wrong}: .*; name PEM files"):
            parse(f"amqps://broker?{wrong}").tls_context()
