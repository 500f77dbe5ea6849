"""A recipe's run as Kubernetes manifests: plain objects, in files that kustomize and people read."""

from penstock.kube.components import components
from penstock.kube.manifests import Place, manifests
from penstock.kube.writing import written

__all__ = ["Place", "components", "manifests", "written"]
