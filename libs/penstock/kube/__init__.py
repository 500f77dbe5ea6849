"""A recipe's run as Kubernetes manifests, or as one Compose file: plain objects, in files that people read."""

from penstock.kube.components import components
from penstock.kube.compose import Host, compose, kept
from penstock.kube.manifests import Place, manifests
from penstock.kube.overlay import overlay
from penstock.kube.writing import written

__all__ = ["Host", "Place", "components", "compose", "kept", "manifests", "overlay", "written"]
