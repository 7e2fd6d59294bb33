"""Writes the dashboard to standard output."""

from __future__ import annotations

import json
import sys

from grafana.dashboard import dashboard

sys.stdout.write(json.dumps(dashboard(), indent=2) + "\n")
