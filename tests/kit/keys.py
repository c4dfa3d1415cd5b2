"""Key pairs that sign tokens, and how their public halves are published."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

__all__ = ["Key", "ec_key", "rsa_key"]

Json = dict[str, Any]


@dataclass(frozen=True)
class Key:
    """A key pair with a name."""

    kid: str
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

    @property
    def algorithm(self) -> str:
        """What it signs by."""
        return "ES256" if isinstance(self.private, ec.EllipticCurvePrivateKey) else "RS256"

    @property
    def public(self) -> Json:
        """What is published of it."""
        made = jwt.get_algorithm_by_name(self.algorithm)
        jwk: Json = json.loads(made.to_jwk(self.private.public_key()))
        return jwk | {"kid": self.kid, "alg": self.algorithm, "use": "sig", "key_ops": ["verify"]}

    @property
    def pem(self) -> bytes:
        """The public half as a text, which a forger takes for a secret."""
        public = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.private.public_key().public_bytes(serialization.Encoding.PEM, public)


def ec_key(kid: str) -> Key:
    return Key(kid, ec.generate_private_key(ec.SECP256R1()))


def rsa_key(kid: str) -> Key:
    return Key(kid, rsa.generate_private_key(65537, 2048))
