"""Test clusters under the name that Ray gives them: ``from remora.cluster_utils import Cluster``."""

from remora.testing.cluster import Cluster

__all__ = ["Cluster"]
