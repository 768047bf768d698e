-- The tables of SQLite under the same rules. Money is integer nano-USD. Times are UTC texts, ISO 8601 with
-- milliseconds and Z; texts that are compared or sorted are so by their bytes, whatever the database's language.

-- The migrations that were done.
CREATE TABLE router_schema (
    version             integer PRIMARY KEY,
    done_at             timestamptz NOT NULL DEFAULT now()
);

-- One row an account: an API key's id, `payer:<network>:<address>`, or `open`. All sums are caches of the
-- ledger that `router ledger check` recomputes. An account that needs no credit may go below zero. Whoever
-- changes one, or its rows in the other tables, has locked its row first.
CREATE TABLE accounts (
    id                  text COLLATE "C" PRIMARY KEY CHECK (id <> ''),
    balance_nusd        bigint NOT NULL DEFAULT 0,
    held_nusd           bigint NOT NULL DEFAULT 0 CHECK (held_nusd >= 0),
    charged_nusd        bigint NOT NULL DEFAULT 0 CHECK (charged_nusd >= 0),
    requests            bigint NOT NULL DEFAULT 0,
    prompt_tokens       bigint NOT NULL DEFAULT 0,
    completion_tokens   bigint NOT NULL DEFAULT 0,
    day                 text NOT NULL DEFAULT '',       -- the UTC day that day_charged_nusd belongs to
    day_charged_nusd    bigint NOT NULL DEFAULT 0,
    month               text NOT NULL DEFAULT '',
    month_charged_nusd  bigint NOT NULL DEFAULT 0,
    budget_day_nusd     bigint CHECK (budget_day_nusd >= 0),
    budget_month_nusd   bigint CHECK (budget_month_nusd >= 0),
    created_at          text NOT NULL
) WITH (fillfactor = 50);       -- a row is written anew for every batch: room for that on its own page

-- Append-only. delta_nusd is what the row does to the balance; its CHECK ties it to kind and amount.
CREATE TABLE ledger (
    seq                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_id          text COLLATE "C" NOT NULL CHECK (request_id <> ''),
    client_request_id   text,
    account             text COLLATE "C" NOT NULL REFERENCES accounts (id),
    kind                text COLLATE "C" NOT NULL,
    amount_nusd         bigint NOT NULL CHECK (amount_nusd >= 0),
    delta_nusd          bigint NOT NULL,
    upstream_cost_nusd  bigint CHECK (upstream_cost_nusd >= 0),
    balance_after_nusd  bigint NOT NULL,
    prompt_tokens       bigint CHECK (prompt_tokens >= 0),
    completion_tokens   bigint CHECK (completion_tokens >= 0),
    model               text,
    provider            text,
    catalog             text,
    estimated           boolean NOT NULL DEFAULT false,
    idempotency_key     text,
    source              text COLLATE "C",               -- of a top-up: who says that it was paid
    external_id         text COLLATE "C",               -- of a top-up: that source's own id of the payment
    created_at          text NOT NULL,
    CONSTRAINT what_each_kind_does_to_the_balance CHECK (delta_nusd IS NOT DISTINCT FROM CASE kind
        WHEN 'hold' THEN 0
        WHEN 'settle' THEN -amount_nusd
        WHEN 'release' THEN 0
        WHEN 'topup' THEN amount_nusd
        WHEN 'refund' THEN amount_nusd
        WHEN 'adjust' THEN CASE WHEN delta_nusd < 0 THEN -amount_nusd ELSE amount_nusd END
        END),                                           -- another kind is NULL here, which no row's delta is
    CONSTRAINT a_topup_names_its_payment CHECK (
        kind <> 'topup' OR (source IS NOT NULL AND external_id IS NOT NULL)
    )
);

-- Its name is what a fault shows.
CREATE UNIQUE INDEX "this request id was used before, or its hold has ended already" ON ledger (
    request_id, (CASE kind WHEN 'release' THEN 'settle' ELSE kind END)
);

CREATE UNIQUE INDEX ledger_topups ON ledger (source, external_id) WHERE kind = 'topup';

CREATE FUNCTION ledger_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only' USING ERRCODE = 'integrity_constraint_violation';
END
$$;

CREATE TRIGGER ledger_keeps_its_rows BEFORE UPDATE OR DELETE ON ledger
FOR EACH ROW EXECUTE FUNCTION ledger_is_append_only();

CREATE TRIGGER ledger_keeps_all_rows BEFORE TRUNCATE ON ledger
FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only();

-- A process that holds money, while it renews its row. Whoever finds it dead deletes the row first, and ends
-- its holds then: a hold is written only while its owner's row is there.
CREATE TABLE owners (
    id                  text COLLATE "C" PRIMARY KEY,
    expires_at          timestamptz NOT NULL
) WITH (fillfactor = 50);

-- The holds that wait for their settle or release. What had been delivered is written by the owner now and
-- then, so that another can settle the hold of a machine that died.
CREATE TABLE open_holds (
    request_id          text COLLATE "C" PRIMARY KEY,
    account             text COLLATE "C" NOT NULL REFERENCES accounts (id),
    amount_nusd         bigint NOT NULL CHECK (amount_nusd >= 0),
    owner               text COLLATE "C" NOT NULL,
    require_credit      boolean NOT NULL,
    prompt_tokens       bigint,
    completion_tokens   bigint,
    charge_nusd         bigint,
    upstream_cost_nusd  bigint,
    model               text,
    provider            text
);

CREATE INDEX open_holds_by_owner ON open_holds (owner);

CREATE TABLE api_keys (
    id                  text COLLATE "C" PRIMARY KEY REFERENCES accounts (id),
    digest              bytea NOT NULL UNIQUE CHECK (length(digest) = 32),  -- SHA-256 of the key
    hint                text NOT NULL,                  -- its first characters, for people to tell keys apart
    name                text NOT NULL,
    prepaid             boolean NOT NULL,
    concurrency         bigint CHECK (concurrency > 0),
    rpm                 bigint CHECK (rpm > 0),
    tpm                 bigint CHECK (tpm > 0),
    models              text NOT NULL,                  -- JSON list of globs, [] = every model
    expires_at          text,
    revoked_at          text,
    created_at          text COLLATE "C" NOT NULL
);
