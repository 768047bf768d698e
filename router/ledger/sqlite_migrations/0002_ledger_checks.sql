-- The same rows under the same rules, for two thirds of the work. One index says both "a request id has each kind
-- once" and "a hold ends once", where a trigger said the second. One CHECK says both which kinds there are and
-- what each does to the balance: SQLite builds a temporary index for every IN with more than two values, for
-- every row. A table's own UNIQUE and CHECK cannot be dropped, so the table is made anew; its rows and their
-- order and numbers stay.

CREATE TABLE ledger_rows (
    seq                 INTEGER PRIMARY KEY,
    request_id          TEXT NOT NULL CHECK (request_id <> ''),
    client_request_id   TEXT,
    account             TEXT NOT NULL REFERENCES accounts (id),
    kind                TEXT NOT NULL,
    amount_nusd         INTEGER NOT NULL CHECK (amount_nusd >= 0),
    delta_nusd          INTEGER NOT NULL,
    upstream_cost_nusd  INTEGER CHECK (upstream_cost_nusd >= 0),
    balance_after_nusd  INTEGER NOT NULL,
    prompt_tokens       INTEGER CHECK (prompt_tokens >= 0),
    completion_tokens   INTEGER CHECK (completion_tokens >= 0),
    model               TEXT,
    provider            TEXT,
    catalog             TEXT,
    estimated           INTEGER NOT NULL DEFAULT 0 CHECK (estimated BETWEEN 0 AND 1),
    idempotency_key     TEXT,
    source              TEXT,                           -- of a top-up: who says that it was paid
    external_id         TEXT,                           -- of a top-up: that source's own id of the payment
    created_at          TEXT NOT NULL,
    CHECK (delta_nusd IS CASE kind                      -- another kind is NULL here, which no row's delta is
        WHEN 'hold' THEN 0
        WHEN 'settle' THEN -amount_nusd
        WHEN 'release' THEN 0
        WHEN 'topup' THEN amount_nusd
        WHEN 'refund' THEN amount_nusd
        WHEN 'adjust' THEN CASE WHEN delta_nusd < 0 THEN -amount_nusd ELSE amount_nusd END
        END),
    CHECK (kind <> 'topup' OR (source IS NOT NULL AND external_id IS NOT NULL))
) STRICT;

INSERT INTO ledger_rows
SELECT seq, request_id, client_request_id, account, kind, amount_nusd, delta_nusd, upstream_cost_nusd,
    balance_after_nusd, prompt_tokens, completion_tokens, model, provider, catalog, estimated, idempotency_key,
    source, external_id, created_at
FROM ledger ORDER BY seq;

DROP TABLE ledger;

ALTER TABLE ledger_rows RENAME TO ledger;

-- Its name is what a fault shows: "UNIQUE constraint failed: index '...'".
CREATE UNIQUE INDEX "this request id was used before, or its hold has ended already" ON ledger (
    request_id, CASE kind WHEN 'release' THEN 'settle' ELSE kind END
);

CREATE UNIQUE INDEX ledger_topups ON ledger (source, external_id) WHERE kind = 'topup';

CREATE TRIGGER ledger_keeps_its_rows BEFORE UPDATE ON ledger
BEGIN
    SELECT RAISE(ABORT, 'the ledger is append-only');
END;

CREATE TRIGGER ledger_loses_no_rows BEFORE DELETE ON ledger
BEGIN
    SELECT RAISE(ABORT, 'the ledger is append-only');
END;
