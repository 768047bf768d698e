-- What the pages show, see router/history; PostgreSQL has the same tables (router/ledger/postgres_migrations).
-- Sums stay, requests are kept up to a number of them. Nothing but the pages reads this file: it may be deleted
-- while the router is stopped. Money is integer nano-USD, times are ms or s from 1970.

-- One row a logical request; `detail` is JSON: its upstream attempts, why it went where it went.
CREATE TABLE history_requests (
    seq                 INTEGER PRIMARY KEY,
    request_id          TEXT NOT NULL UNIQUE,
    client_request_id   TEXT,
    ended_ms            INTEGER NOT NULL,
    account             TEXT,
    outcome             TEXT NOT NULL,
    asked               TEXT,
    category            TEXT,
    model               TEXT,
    provider            TEXT,
    stream              INTEGER NOT NULL,
    ms                  INTEGER NOT NULL,
    first_ms            INTEGER,
    prompt_tokens       INTEGER NOT NULL,
    completion_tokens   INTEGER NOT NULL,
    estimated           INTEGER NOT NULL,
    charged_nusd        INTEGER NOT NULL,
    upstream_nusd       INTEGER NOT NULL,
    baseline            TEXT,
    baseline_nusd       INTEGER,
    detail              TEXT NOT NULL
) STRICT;

CREATE INDEX history_requests_by_account ON history_requests (account, seq);
CREATE INDEX history_requests_by_model ON history_requests (model, seq);
CREATE INDEX history_requests_by_outcome ON history_requests (outcome, seq) WHERE outcome <> 'ok';     -- nearly all are
CREATE INDEX history_requests_by_client_id ON history_requests (client_request_id) WHERE client_request_id IS NOT NULL;

-- Sums of logical requests, by minute, hour and day (`step_s`) of their end.
CREATE TABLE history_figures (
    step_s              INTEGER NOT NULL,
    start_s             INTEGER NOT NULL,
    category            TEXT NOT NULL,
    model               TEXT NOT NULL,
    outcome             TEXT NOT NULL,
    baseline            TEXT NOT NULL,
    requests            INTEGER NOT NULL,
    prompt_tokens       INTEGER NOT NULL,
    completion_tokens   INTEGER NOT NULL,
    charged_nusd        INTEGER NOT NULL,
    upstream_nusd       INTEGER NOT NULL,
    baseline_nusd       INTEGER NOT NULL,
    compared_nusd       INTEGER NOT NULL,
    PRIMARY KEY (step_s, start_s, category, model, outcome, baseline)
) STRICT, WITHOUT ROWID;

-- How long served requests took: `span` total or first, `bucket` of figures.py.
CREATE TABLE history_latencies (
    step_s              INTEGER NOT NULL,
    start_s             INTEGER NOT NULL,
    span                TEXT NOT NULL,
    bucket              INTEGER NOT NULL,
    requests            INTEGER NOT NULL,
    PRIMARY KEY (step_s, start_s, span, bucket)
) STRICT, WITHOUT ROWID;

-- Calls of upstreams, which are not requests: one request may make several.
CREATE TABLE history_calls (
    step_s              INTEGER NOT NULL,
    start_s             INTEGER NOT NULL,
    provider            TEXT NOT NULL,
    model               TEXT NOT NULL,
    outcome             TEXT NOT NULL,
    calls               INTEGER NOT NULL,
    ms                  INTEGER NOT NULL,
    PRIMARY KEY (step_s, start_s, provider, model, outcome)
) STRICT, WITHOUT ROWID;

-- What each account used, by day and model.
CREATE TABLE history_spent (
    account             TEXT NOT NULL,
    start_s             INTEGER NOT NULL,
    model               TEXT NOT NULL,
    requests            INTEGER NOT NULL,
    prompt_tokens       INTEGER NOT NULL,
    completion_tokens   INTEGER NOT NULL,
    charged_nusd        INTEGER NOT NULL,
    PRIMARY KEY (account, start_s, model)
) STRICT, WITHOUT ROWID;
