-- What the pages list: the payments into one account, and keys, the newest first.
CREATE INDEX ledger_topups_by_account ON ledger (account, seq) WHERE kind = 'topup';
CREATE INDEX api_keys_by_age ON api_keys (created_at, id);
