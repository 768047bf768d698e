-- What was asked with an Idempotency-Key, see answers.py. `request_id` is the hold that was made with the key
-- last; while that is in open_holds, its request runs.
CREATE TABLE idempotency_keys (
    account             TEXT NOT NULL,
    key                 TEXT NOT NULL CHECK (key <> ''),
    body                BLOB NOT NULL CHECK (length(body) = 32),            -- SHA-256 of the request's body
    request_id          TEXT NOT NULL,
    cover_nusd          INTEGER NOT NULL CHECK (cover_nusd >= 0),           -- what a retry need not pay again
    begun_at            TEXT NOT NULL,                  -- when the key was first used; it is kept for a day
    status              INTEGER,                        -- of the answer that is kept; NULL where none is
    head                BLOB,
    answer              BLOB,
    UNIQUE (account, key),
    CHECK ((status IS NULL) = (head IS NULL) AND (status IS NULL) = (answer IS NULL))
) STRICT;

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (begun_at);

-- A receipt is asked for by the client's own id too.
CREATE INDEX ledger_client_ids ON ledger (client_request_id, account)
WHERE client_request_id IS NOT NULL AND kind = 'hold';

-- Old rows may be folded into a day's sums (sqlite_rollup.py), and only so: while this table has a row, holds
-- that have ended and the ends of earlier days may go. The roll-up writes that row and takes it back in one
-- transaction, so nobody else ever sees it. Payments never go.
CREATE TABLE rollup_before (
    day                 TEXT NOT NULL
) STRICT;

DROP TRIGGER ledger_loses_no_rows;

CREATE TRIGGER ledger_loses_no_rows BEFORE DELETE ON ledger
WHEN OLD.kind NOT IN ('hold', 'settle', 'release')
    OR NOT EXISTS (SELECT 1 FROM rollup_before WHERE OLD.kind = 'hold' OR OLD.created_at < day)
    OR EXISTS (SELECT 1 FROM open_holds WHERE open_holds.request_id = OLD.request_id)
BEGIN
    SELECT RAISE(ABORT, 'the ledger is append-only');
END;
