"""A process -> views. `view` has the protocols, `live` answers from this process, `remote` from another's memory. Standard library only."""
