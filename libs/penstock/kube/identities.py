"""An authority of a namespace's own, and a certificate for each kind of service, which cert-manager renews. Pure.

A certificate names its kind by a URI, and every pod of the namespace by the name that it has by its address: who calls
a pod knows that it is of the run, and whom it calls knows the caller's kind.
"""

from __future__ import annotations

from typing import Any

from penstock.access import KINDS
from penstock.kube.containers import PODS, Place, pair_of
from penstock.kube.objects import placed

ISSUER, API = "penstock", "cert-manager.io/v1"
HOURS, NATS_HOURS = 24 * 90, 24 * 365
SCRAPER, CLIENT = "scraper", ["digital signature", "client auth"]
"""Of a certificate; NATS, which reads its own once, wants a restart before it ends."""
MOST_SERVERS = 5
"""Of a cluster of NATS."""


def identities(place: Place) -> list[dict[str, Any]]:
    """The objects; those of `place.namespace`, which stands in the names."""
    authority = _certificate("ca", place, "penstock-self", HOURS * 40, isCA=True, commonName="penstock")
    servers = ["nats", f"nats.{place.namespace}.svc", *(f"nats-{i}.nats" for i in range(MOST_SERVERS))]
    return [
        _object("Issuer", "penstock-self", place, {"selfSigned": {}}),
        authority,
        _object("Issuer", ISSUER, place, {"ca": {"secretName": pair_of("ca")}}),
        *(_of_kind(kind, place, HOURS) for kind in KINDS),
        _of_kind("nats", place, NATS_HOURS, servers),
        # Of no kind, so that it opens metrics and nothing else: Prometheus keeps it where others may read it.
        _certificate(SCRAPER, place, ISSUER, HOURS, uris=[f"spiffe://penstock/{SCRAPER}"], usages=CLIENT),
    ]


def scraping() -> dict[str, Any]:
    """How Prometheus shows itself to pods."""

    def key(name: str) -> dict[str, Any]:
        return {"name": pair_of(SCRAPER), "key": name}

    told = {"ca": {"secret": key("ca.crt")}, "cert": {"secret": key("tls.crt")}, "keySecret": key("tls.key")}
    return {"scheme": "https", "tlsConfig": {**told, "serverName": "localhost"}}


def _of_kind(kind: str, place: Place, hours: int, names: list[str] | None = None) -> dict[str, Any]:
    return _certificate(
        kind,
        place,
        ISSUER,
        hours,
        uris=[f"spiffe://penstock/{kind}"],
        dnsNames=[*(names or []), f"*.{place.namespace}.{PODS}", "localhost"],
        ipAddresses=["127.0.0.1"],
        usages=["digital signature", "server auth", "client auth"],
    )


def _certificate(kind: str, place: Place, issuer: str, hours: int, **more: Any) -> dict[str, Any]:
    spec = {
        "secretName": pair_of(kind),
        "duration": f"{hours}h",
        "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
        "issuerRef": {"name": issuer, "kind": "Issuer"},
    }
    return _object("Certificate", pair_of(kind), place, {**spec, **more})


def _object(what: str, name: str, place: Place, spec: dict[str, Any]) -> dict[str, Any]:
    return placed({"apiVersion": API, "kind": what, "metadata": {"name": name}, "spec": spec}, place)
