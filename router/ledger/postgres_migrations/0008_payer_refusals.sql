-- Wallets whose settlement was refused when the upstream had made their answer: they pay before it from then on,
-- for a time (router/till.py). One row a wallet, gone a week after the last refusal.
CREATE TABLE payer_refusals (
    account text PRIMARY KEY,
    times   integer NOT NULL CHECK (times > 0),
    last_at text COLLATE "C" NOT NULL
);
CREATE INDEX payer_refusals_by_age ON payer_refusals (last_at);
