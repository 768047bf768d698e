-- Money is integer nano-USD. Times are UTC, ISO 8601 with milliseconds and Z.

-- One row an account: an API key's id, `payer:<network>:<address>`, or `open`. All sums are caches of the
-- ledger that `router ledger check` recomputes. An account that needs no credit may go below zero.
CREATE TABLE accounts (
    id                  TEXT PRIMARY KEY CHECK (id <> ''),
    balance_nusd        INTEGER NOT NULL DEFAULT 0,
    held_nusd           INTEGER NOT NULL DEFAULT 0 CHECK (held_nusd >= 0),
    charged_nusd        INTEGER NOT NULL DEFAULT 0 CHECK (charged_nusd >= 0),
    requests            INTEGER NOT NULL DEFAULT 0,
    prompt_tokens       INTEGER NOT NULL DEFAULT 0,
    completion_tokens   INTEGER NOT NULL DEFAULT 0,
    day                 TEXT NOT NULL DEFAULT '',       -- the UTC day that day_charged_nusd belongs to
    day_charged_nusd    INTEGER NOT NULL DEFAULT 0,
    month               TEXT NOT NULL DEFAULT '',
    month_charged_nusd  INTEGER NOT NULL DEFAULT 0,
    budget_day_nusd     INTEGER CHECK (budget_day_nusd >= 0),
    budget_month_nusd   INTEGER CHECK (budget_month_nusd >= 0),
    created_at          TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Append-only. delta_nusd is what the row does to the balance; its CHECK ties it to kind and amount.
CREATE TABLE ledger (
    seq                 INTEGER PRIMARY KEY,
    request_id          TEXT NOT NULL CHECK (request_id <> ''),
    client_request_id   TEXT,
    account             TEXT NOT NULL REFERENCES accounts (id),
    kind                TEXT NOT NULL CHECK (kind IN ('hold', 'settle', 'release', 'topup', 'refund', 'adjust')),
    amount_nusd         INTEGER NOT NULL CHECK (amount_nusd >= 0),
    delta_nusd          INTEGER NOT NULL,
    upstream_cost_nusd  INTEGER CHECK (upstream_cost_nusd >= 0),
    balance_after_nusd  INTEGER NOT NULL,
    prompt_tokens       INTEGER CHECK (prompt_tokens >= 0),
    completion_tokens   INTEGER CHECK (completion_tokens >= 0),
    model               TEXT,
    provider            TEXT,
    catalog             TEXT,
    estimated           INTEGER NOT NULL DEFAULT 0 CHECK (estimated IN (0, 1)),
    idempotency_key     TEXT,
    source              TEXT,                           -- of a top-up: who says that it was paid
    external_id         TEXT,                           -- of a top-up: that source's own id of the payment
    created_at          TEXT NOT NULL,
    UNIQUE (request_id, kind),
    CHECK (delta_nusd = CASE kind
        WHEN 'settle' THEN -amount_nusd
        WHEN 'topup' THEN amount_nusd
        WHEN 'refund' THEN amount_nusd
        WHEN 'adjust' THEN CASE WHEN delta_nusd < 0 THEN -amount_nusd ELSE amount_nusd END
        ELSE 0 END),
    CHECK (kind <> 'topup' OR (source IS NOT NULL AND external_id IS NOT NULL))
) STRICT;

CREATE UNIQUE INDEX ledger_topups ON ledger (source, external_id) WHERE kind = 'topup';

CREATE TRIGGER ledger_keeps_its_rows BEFORE UPDATE ON ledger
BEGIN
    SELECT RAISE(ABORT, 'the ledger is append-only');
END;

CREATE TRIGGER ledger_loses_no_rows BEFORE DELETE ON ledger
BEGIN
    SELECT RAISE(ABORT, 'the ledger is append-only');
END;

CREATE TRIGGER ledger_ends_a_hold_once BEFORE INSERT ON ledger
WHEN NEW.kind IN ('settle', 'release') AND EXISTS (
    SELECT 1 FROM ledger WHERE request_id = NEW.request_id AND kind IN ('settle', 'release')
)
BEGIN
    SELECT RAISE(ABORT, 'this hold has ended already');
END;

-- The holds that wait for their settle or release, so that a start finds them without reading the ledger.
CREATE TABLE open_holds (
    request_id          TEXT PRIMARY KEY,
    account             TEXT NOT NULL REFERENCES accounts (id),
    amount_nusd         INTEGER NOT NULL CHECK (amount_nusd >= 0),
    owner               TEXT NOT NULL                   -- the process that settles it, see owners.py
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
    id                  TEXT PRIMARY KEY REFERENCES accounts (id),
    digest              BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),   -- SHA-256 of the key
    hint                TEXT NOT NULL,                  -- its first characters, for people to tell keys apart
    name                TEXT NOT NULL,
    prepaid             INTEGER NOT NULL CHECK (prepaid IN (0, 1)),
    concurrency         INTEGER CHECK (concurrency > 0),
    rpm                 INTEGER CHECK (rpm > 0),
    tpm                 INTEGER CHECK (tpm > 0),
    models              TEXT NOT NULL,                  -- JSON list of globs, [] = every model
    expires_at          TEXT,
    revoked_at          TEXT,
    created_at          TEXT NOT NULL
) STRICT, WITHOUT ROWID;
