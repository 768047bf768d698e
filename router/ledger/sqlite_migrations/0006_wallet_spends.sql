-- What the paying wallet has signed, see spending.py. Only the state, the transaction and updated_at change.
CREATE TABLE wallet_spends (
    seq                 INTEGER PRIMARY KEY AUTOINCREMENT,
    nonce               TEXT NOT NULL UNIQUE CHECK (nonce <> ''),
    payer               TEXT NOT NULL,
    provider            TEXT NOT NULL,
    origin              TEXT NOT NULL,
    network             TEXT NOT NULL,
    asset               TEXT NOT NULL,
    pay_to              TEXT NOT NULL,
    amount              TEXT NOT NULL,                                      -- atomic units, of any size
    nusd                INTEGER NOT NULL CHECK (nusd > 0),
    valid_before        INTEGER NOT NULL,                                   -- seconds since 1970
    request_id          TEXT NOT NULL,
    state               TEXT NOT NULL CHECK (state IN ('reserved', 'spent', 'freed', 'unknown')),
    tx                  TEXT,
    day                 TEXT NOT NULL,                                      -- UTC, whose cap it counts against
    created_at          TEXT NOT NULL,
    updated_at          TEXT NOT NULL
) STRICT;

CREATE INDEX wallet_spends_by_day ON wallet_spends (day, state, nusd);
CREATE INDEX wallet_spends_by_request ON wallet_spends (request_id);
CREATE INDEX wallet_spends_open ON wallet_spends (network, valid_before) WHERE state IN ('reserved', 'unknown');

CREATE TRIGGER wallet_spends_lose_no_rows BEFORE DELETE ON wallet_spends
BEGIN
    SELECT RAISE(ABORT, 'signatures are kept');
END;

-- Whom a provider named first, where its file does not say whom to pay.
CREATE TABLE wallet_payees (
    provider            TEXT NOT NULL,
    origin              TEXT NOT NULL,
    network             TEXT NOT NULL,
    pay_to              TEXT NOT NULL,
    created_at          TEXT NOT NULL,
    UNIQUE (provider, origin)
) STRICT;
