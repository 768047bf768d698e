-- What the pages show, see router/history. Sums stay, requests are kept up to a number of them; nothing but the
-- pages reads these tables. Money is integer nano-USD, times are ms or s from 1970.

-- One row a logical request; `detail` is JSON: its upstream attempts, why it went where it went.
CREATE TABLE history_requests (
    seq                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_id          text COLLATE "C" NOT NULL UNIQUE,
    client_request_id   text COLLATE "C",
    ended_ms            bigint NOT NULL,
    account             text COLLATE "C",
    outcome             text COLLATE "C" NOT NULL,
    asked               text COLLATE "C",
    category            text COLLATE "C",
    model               text COLLATE "C",
    provider            text COLLATE "C",
    stream              bigint NOT NULL,
    ms                  bigint NOT NULL,
    first_ms            bigint,
    prompt_tokens       bigint NOT NULL,
    completion_tokens   bigint NOT NULL,
    estimated           bigint NOT NULL,
    charged_nusd        bigint NOT NULL,
    upstream_nusd       bigint NOT NULL,
    baseline            text COLLATE "C",
    baseline_nusd       bigint,
    detail              text COLLATE "C" NOT NULL
);

CREATE INDEX history_requests_by_account ON history_requests (account, seq);
CREATE INDEX history_requests_by_model ON history_requests (model, seq);
CREATE INDEX history_requests_by_outcome ON history_requests (outcome, seq) WHERE outcome <> 'ok';     -- nearly all are
CREATE INDEX history_requests_by_client_id ON history_requests (client_request_id) WHERE client_request_id IS NOT NULL;

-- Sums of logical requests, by minute, hour and day (`step_s`) of their end.
CREATE TABLE history_figures (
    step_s              bigint NOT NULL,
    start_s             bigint NOT NULL,
    category            text COLLATE "C" NOT NULL,
    model               text COLLATE "C" NOT NULL,
    outcome             text COLLATE "C" NOT NULL,
    baseline            text COLLATE "C" NOT NULL,
    requests            bigint NOT NULL,
    prompt_tokens       bigint NOT NULL,
    completion_tokens   bigint NOT NULL,
    charged_nusd        bigint NOT NULL,
    upstream_nusd       bigint NOT NULL,
    baseline_nusd       bigint NOT NULL,
    compared_nusd       bigint NOT NULL,
    PRIMARY KEY (step_s, start_s, category, model, outcome, baseline)
);

-- How long served requests took: `span` total or first, `bucket` of figures.py.
CREATE TABLE history_latencies (
    step_s              bigint NOT NULL,
    start_s             bigint NOT NULL,
    span                text COLLATE "C" NOT NULL,
    bucket              bigint NOT NULL,
    requests            bigint NOT NULL,
    PRIMARY KEY (step_s, start_s, span, bucket)
);

-- Calls of upstreams, which are not requests: one request may make several.
CREATE TABLE history_calls (
    step_s              bigint NOT NULL,
    start_s             bigint NOT NULL,
    provider            text COLLATE "C" NOT NULL,
    model               text COLLATE "C" NOT NULL,
    outcome             text COLLATE "C" NOT NULL,
    calls               bigint NOT NULL,
    ms                  bigint NOT NULL,
    PRIMARY KEY (step_s, start_s, provider, model, outcome)
);

-- What each account used, by day and model.
CREATE TABLE history_spent (
    account             text COLLATE "C" NOT NULL,
    start_s             bigint NOT NULL,
    model               text COLLATE "C" NOT NULL,
    requests            bigint NOT NULL,
    prompt_tokens       bigint NOT NULL,
    completion_tokens   bigint NOT NULL,
    charged_nusd        bigint NOT NULL,
    PRIMARY KEY (account, start_s, model)
);
