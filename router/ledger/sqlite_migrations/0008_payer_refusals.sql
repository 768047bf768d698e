-- Wallets whose settlement was refused when the upstream had made their answer: they pay before it from then on,
-- for a time (router/till.py). One row a wallet, gone a week after the last refusal.
CREATE TABLE payer_refusals (
    account TEXT PRIMARY KEY,
    times   INTEGER NOT NULL CHECK (times > 0),
    last_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX payer_refusals_by_age ON payer_refusals (last_at);
