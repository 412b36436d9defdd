"""Every span, metric, event and attribute name, once. Semantic conventions schema 1.44.0 where one exists, ``hangwatch.*`` elsewhere."""

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
SCOPE = "hangwatch"
