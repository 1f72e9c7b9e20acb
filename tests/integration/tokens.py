"""Makes tokens, good and bad: HS256 by hmac, RS256 and ES256 by the openssl program."""
import base64
import hashlib
import hmac
import json
import pathlib
import subprocess
import time


def b64(data):
    if not isinstance(data, bytes):
        data = (data if isinstance(data, str) else json.dumps(data)).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(*args, data=None):
    return subprocess.run(["openssl", *map(str, args)], input=data, capture_output=True,
                          check=True).stdout


def pair(folder, name, *options):
    """A key pair in PEM: (file of the private key, file of the public key)."""
    private, public = pathlib.Path(folder) / f"{name}.key", pathlib.Path(folder) / f"{name}.pem"
    openssl("genpkey", *options, "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    return private, public


def rsa_pair(folder, bits=2048, name="rsa"):
    return pair(folder, f"{name}{bits}", "-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{bits}")


def ec_pair(folder, curve="P-256", name="ec"):
    return pair(folder, f"{name}{curve}", "-algorithm", "EC", "-pkeyopt",
                f"ec_paramgen_curve:{curve}")


def der_to_raw(der):
    """ECDSA's two numbers, 32 bytes each, out of SEQUENCE {INTEGER, INTEGER}."""
    assert der[0] == 0x30 and der[1] == len(der) - 2
    out, at = b"", 2
    for _ in range(2):
        n = der[at + 1]
        out += der[at + 2:at + 2 + n].lstrip(b"\0").rjust(32, b"\0")
        at += 2 + n
    return out


def sign(alg, key, text):
    if alg == "HS256":
        return hmac.new(key, text, hashlib.sha256).digest()
    if alg == "none":
        return b""
    sig = openssl("dgst", "-sha256", "-sign", key, data=text)
    return sig if alg == "RS256" else der_to_raw(sig)


def token(alg, key, claims=None, header=None, by=None, sig=None):
    """claims, header: a dict beside the usual ones, or text that stands for itself. by: what it is
    signed by, where the header says another algorithm."""
    if claims is None or isinstance(claims, dict):
        claims = {"exp": int(time.time()) + 300, **(claims or {})}
        claims = {k: v for k, v in claims.items() if v is not ...}
    if header is None or isinstance(header, dict):
        header = {"alg": alg, "typ": "JWT", **(header or {})}
    text = f"{b64(header)}.{b64(claims)}"
    sig = sign(by or alg, key, text.encode()) if sig is None else sig
    return f"{text}.{b64(sig)}"
