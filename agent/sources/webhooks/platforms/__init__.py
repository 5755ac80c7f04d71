"""Readers of the bodies that each platform sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.sources.webhooks.platforms import argo_rollouts, argocd, azure, circleci, github, gitlab

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.settings import Platform
    from agent.sources.webhooks.values import Reader

READERS: Mapping[Platform, Reader] = {
    "github": github.read,
    "gitlab": gitlab.read,
    "argocd": argocd.read,
    "argo_rollouts": argo_rollouts.read,
    "circleci": circleci.read,
    "azure_devops": azure.read,
}
