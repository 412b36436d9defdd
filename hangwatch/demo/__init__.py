"""What `hangwatch demo` runs: a service and its client. Run as programs in an environment of their own, imported by nothing."""
