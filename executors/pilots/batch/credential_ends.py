"""When a credential ends, by its own words: JWTs (RFC 7519), X.509 certificates and their proxies (RFC 3820)."""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import UTC, datetime

from cryptography import x509

_TOKEN = re.compile(r"[\x21-\x7e]+")
_PRIVATE_KEY = re.compile(r"-----BEGIN (?:RSA |EC )?PRIVATE KEY-----(?!\s*Proc-Type: 4,ENCRYPTED)")


def token_end(token: str) -> datetime | None:
    """The `exp` of a JWT; None for a token of another kind or without it. Raises ValueError for what is no token."""
    if not _TOKEN.fullmatch(token):
        raise ValueError("it is no token: one word of ASCII is expected" if token else "it is empty")
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        end = claims.get("exp")
        return None if end is None else datetime.fromtimestamp(float(end), UTC)
    except (binascii.Error, UnicodeDecodeError, ValueError, AttributeError, TypeError, OverflowError, OSError):
        return None


def proxy_end(text: str) -> datetime:
    """The earliest end of its certificates: a proxy is worth nothing once one of those that it hangs on has ended.

    Raises ValueError unless certificates and a private key that is not encrypted are there, all in PEM.
    """
    if not _PRIVATE_KEY.search(text):
        raise ValueError("it has no private key, or an encrypted one; PEM of certificate and key is expected")
    try:
        certificates = x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        raise ValueError("its certificates can't be read; PEM of certificate and key is expected") from None
    return min(certificate.not_valid_after_utc for certificate in certificates)
