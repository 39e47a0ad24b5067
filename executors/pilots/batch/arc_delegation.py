"""Delegation: a compute element makes a key and asks for a certificate; we sign a proxy of ours (RFC 3820) for it.

One delegation serves the pilots that are submitted together. It lasts as long as the credential that it is made from,
and is renewed under the same name, which reaches jobs that wait and jobs that run, once less than half of what a new
one would last is left.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from executors.pilots.batch.arc_rest import ArcRest

_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)
_PROXY_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
_INHERIT_ALL = bytes.fromhex("300c300a06082b06010505071501")
"""ProxyCertInfo with the policy id-ppl-inheritAll, in DER."""
_CLOCKS = timedelta(minutes=5)
"""By which the element's clock may be slow."""


@dataclass(frozen=True, slots=True)
class Delegation:
    """A proxy that a compute element holds."""

    id: str
    ends_at: datetime


def delegate(rest: ArcRest, credential: str) -> Delegation:
    """Give the element a proxy of this credential (PEM)."""
    response = rest.request("POST", "delegations", params={"action": "new"})
    name = response.headers.get("Location", "").rpartition("/")[2]
    if not name:
        raise rest.unavailable("a delegation without a name")
    return _deliver(rest, name, response.text, credential)


def renew_ending(rest: ArcRest, names: Iterable[str], credential: str, now: datetime) -> None:
    """Renew those of these delegations of which less than half of what a new one would last is left."""
    fresh = min(one.not_valid_after_utc for one in _chain(credential)) - now
    for name in names:
        held = rest.request("POST", f"delegations/{name}", params={"action": "get"}, accept=(404,))
        if held.status_code == 404:
            continue
        try:
            left = min(one.not_valid_after_utc for one in _chain(held.text)) - now
        except ValueError as error:
            raise rest.unavailable(f"delegation {name} can't be read: {error}") from error
        if left < fresh / 2:
            request = rest.request("POST", f"delegations/{name}", params={"action": "renew"})
            _deliver(rest, name, request.text, credential)


def _deliver(rest: ArcRest, name: str, request: str, credential: str) -> Delegation:
    try:
        proxy, ends_at = sign_proxy(request, credential, datetime.now(UTC))
    except (ValueError, IndexError, x509.InvalidVersion) as error:
        raise rest.unavailable(f"delegation {name}: its request can't be signed: {error}") from error
    rest.request("PUT", f"delegations/{name}", content=proxy.encode())
    return Delegation(name, ends_at)


def sign_proxy(request: str, credential: str, now: datetime) -> tuple[str, datetime]:
    """The proxy for a certificate request, with the chain that it hangs on, and when it ends: all in PEM.

    Raises ValueError, IndexError or InvalidVersion for a request that can't be read.
    """
    key = x509.load_der_x509_csr(_correct(request)).public_key()
    chain = _chain(credential)
    found = _KEY.search(credential)
    signer = serialization.load_pem_private_key(found.group().encode() if found else b"", password=None)
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) or not isinstance(
        signer, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    ):
        raise ValueError("keys must be RSA or elliptic curves")  # noqa: TRY004 - a value that another has sent
    issuer, ends_at, serial = chain[0], min(one.not_valid_after_utc for one in chain), x509.random_serial_number()
    own = x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, str(serial))])
    proxy = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([*issuer.subject.rdns, own]))
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(max(issuer.not_valid_before_utc, now - _CLOCKS))
        .not_valid_after(ends_at)
        .add_extension(x509.UnrecognizedExtension(_PROXY_INFO, _INHERIT_ALL), critical=True)
        .add_extension(_USAGE, critical=True)
        .sign(signer, hashes.SHA256())
    )
    return "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in (proxy, *chain)), ends_at


def _correct(request: str) -> bytes:
    """A certificate request as RFC 2986 wants it, in DER: those of A-REX 6 call themselves version 3. Their signatures
    are not looked at: who asks is known by TLS."""
    lines = request.partition("-----BEGIN CERTIFICATE REQUEST-----")[2].partition("-----END")[0]
    text = bytearray(base64.b64decode(lines))
    at = 0
    for _ in ("CertificationRequest", "CertificationRequestInfo"):
        length = text[at + 1]
        at += 2 + (length & 0x7F if length & 0x80 else 0)
    if text[at : at + 2] == b"\x02\x01":
        text[at + 2] = 0
    return bytes(text)


def _chain(text: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(text.encode())


_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=True,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
