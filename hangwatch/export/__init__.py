"""Incidents -> OpenTelemetry, from a thread of its own. OpenTelemetry is imported here, on first use, never before."""
