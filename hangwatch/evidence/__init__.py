"""One file per tool: ``capture(target) -> Evidence``. Each has a deadline and never raises; a tool that is missing or refused is an Evidence with a hint."""
