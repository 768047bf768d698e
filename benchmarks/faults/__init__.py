"""Break the service on purpose and audit its ledger against the books of both its neighbours."""
