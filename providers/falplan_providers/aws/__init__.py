"""Machines of EC2, bought for runners that have no room and given back once they are empty."""

from __future__ import annotations

from .region import AwsRegion, provider

__all__ = ["AwsRegion", "provider"]
