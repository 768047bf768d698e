-- What was asked with an Idempotency-Key, see answers.py. `request_id` is the hold that was made with the key
-- last; while that is in open_holds, its request runs. Whoever changes a row has locked its account first.
CREATE TABLE idempotency_keys (
    account             text COLLATE "C" NOT NULL,
    key                 text COLLATE "C" NOT NULL CHECK (key <> ''),
    body                bytea NOT NULL CHECK (length(body) = 32),           -- SHA-256 of the request's body
    request_id          text COLLATE "C" NOT NULL,
    cover_nusd          bigint NOT NULL CHECK (cover_nusd >= 0),            -- what a retry need not pay again
    begun_at            text COLLATE "C" NOT NULL,      -- when the key was first used; it is kept for a day
    status              integer,                        -- of the answer that is kept; NULL where none is
    head                bytea,
    answer              bytea,
    PRIMARY KEY (account, key),
    CHECK ((status IS NULL) = (head IS NULL) AND (status IS NULL) = (answer IS NULL))
);

ALTER TABLE idempotency_keys ALTER COLUMN answer SET STORAGE EXTERNAL;      -- it is deflated already

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (begun_at);

-- A receipt is asked for by the client's own id too.
CREATE INDEX ledger_client_ids ON ledger (client_request_id, account, seq)
WHERE client_request_id IS NOT NULL AND kind = 'hold';

-- Old rows may be folded into a day's sums (postgres_rollup.py), and only so: while this table has a row, holds
-- that have ended and the ends of earlier days may go. The roll-up writes that row and takes it back in one
-- transaction, so nobody else ever sees it. Payments never go.
CREATE TABLE rollup_before (
    day                 text COLLATE "C" NOT NULL
);

CREATE OR REPLACE FUNCTION ledger_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.kind IN ('hold', 'settle', 'release')
            AND EXISTS (SELECT FROM rollup_before WHERE OLD.kind = 'hold' OR OLD.created_at < day)
            AND NOT EXISTS (SELECT FROM open_holds WHERE open_holds.request_id = OLD.request_id)
        THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'the ledger is append-only' USING ERRCODE = 'integrity_constraint_violation';
END
$$;
