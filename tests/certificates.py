"""A private certificate authority of a grid: host and user certificates, and RFC 3820 proxies of them, in PEM."""

from __future__ import annotations

import ipaddress
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

_ORGANIZATION = "Penstock tests"
_INHERIT_ALL = bytes.fromhex("300c300a06082b06010505071501")
"""ProxyCertInfo whose policy is id-ppl-inheritAll, in DER."""


def new_key() -> rsa.RSAPrivateKey:
    """A private key."""
    return rsa.generate_private_key(65537, 2048)


def key_pem(key: rsa.RSAPrivateKey) -> str:
    """It in PEM, not encrypted."""
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def certificate_pem(certificate: x509.Certificate) -> str:
    """It in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _named(name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def subject(name: str) -> str:
    """How the grid writes whose certificate it is."""
    return f"/O={_ORGANIZATION}/CN={name}"


class Authority:
    """The authority. Its certificate lies in `folder` as OpenSSL looks it up, beside the signing policy."""

    def __init__(self, folder: Path, name: str = "Authority") -> None:
        self.folder = folder
        self._key = new_key()
        self._name = _named(name)
        self.certificate = self._signed(
            self._name,
            self._key.public_key(),
            timedelta(days=2),
            (x509.BasicConstraints(ca=True, path_length=None), True),
            (_usage(authority=True), True),
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"{_subject_hash(self.certificate)}.0"
        self.file.write_text(certificate_pem(self.certificate))
        self.file.with_suffix(".signing_policy").write_text(
            f"access_id_CA X509 '{subject(name)}'\npos_rights globus CA:sign\n"
            f"cond_subjects globus '\"/O={_ORGANIZATION}/*\"'\n"
        )

    def host(self) -> tuple[str, str]:
        """Certificate and key of localhost."""
        key = new_key()
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        certificate = self._signed(
            _named("localhost"), key.public_key(), timedelta(days=1), (names, False), (_usage(), True)
        )
        return certificate_pem(certificate), key_pem(key)

    def user(self, name: str, *, life: timedelta = timedelta(days=1)) -> User:
        """A user, with a certificate for so long."""
        key = new_key()
        certificate = self._signed(_named(name), key.public_key(), life, (_usage(), True))
        return User(certificate, key, ())

    def _signed(
        self, name: x509.Name, key: rsa.RSAPublicKey, life: timedelta, *extensions: tuple[x509.ExtensionType, bool]
    ) -> x509.Certificate:
        return _sign((name, self._name), key, self._key, life, extensions)


class User:
    """Who holds a certificate, or a proxy of one."""

    def __init__(
        self, certificate: x509.Certificate, key: rsa.RSAPrivateKey, chain: tuple[x509.Certificate, ...]
    ) -> None:
        self.certificate = certificate
        self._key = key
        self._chain = chain

    @property
    def pem(self) -> str:
        """Certificate, key and the chain that it hangs on, in the order of proxy files."""
        chain = "".join(certificate_pem(one) for one in self._chain)
        return certificate_pem(self.certificate) + key_pem(self._key) + chain

    @property
    def ends_at(self) -> datetime:
        """When this one ends; those that it hangs on may do so earlier."""
        return self.certificate.not_valid_after_utc

    def proxy(self, life: timedelta) -> User:
        """An RFC 3820 proxy for so long: its subject is ours and one more CN."""
        key = new_key()
        own = x509.RelativeDistinguishedName(
            [x509.NameAttribute(NameOID.COMMON_NAME, str(x509.random_serial_number()))]
        )
        name = x509.Name([*self.certificate.subject.rdns, own])
        info = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14"), _INHERIT_ALL)
        extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ((info, True), (_usage(), True))
        certificate = _sign((name, self.certificate.subject), key.public_key(), self._key, life, extensions)
        return User(certificate, key, (self.certificate, *self._chain))


def _sign(
    names: tuple[x509.Name, x509.Name],
    key: rsa.RSAPublicKey,
    by: rsa.RSAPrivateKey,
    life: timedelta,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...],
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + life) - timedelta(hours=1))
        .not_valid_after(now + life)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(by, hashes.SHA256())


def _subject_hash(certificate: x509.Certificate) -> str:
    """The name under which OpenSSL looks it up in a folder."""
    command = ["openssl", "x509", "-subject_hash", "-noout"]
    done = subprocess.run(command, input=certificate_pem(certificate), check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _usage(*, authority: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not authority,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
