-- What the paying wallet has signed, see spending.py. Only the state, the transaction and updated_at change.
CREATE TABLE wallet_spends (
    seq                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    nonce               text COLLATE "C" NOT NULL UNIQUE CHECK (nonce <> ''),
    payer               text COLLATE "C" NOT NULL,
    provider            text COLLATE "C" NOT NULL,
    origin              text COLLATE "C" NOT NULL,
    network             text COLLATE "C" NOT NULL,
    asset               text COLLATE "C" NOT NULL,
    pay_to              text COLLATE "C" NOT NULL,
    amount              text COLLATE "C" NOT NULL,                          -- atomic units, of any size
    nusd                bigint NOT NULL CHECK (nusd > 0),
    valid_before        bigint NOT NULL,                                    -- seconds since 1970
    request_id          text COLLATE "C" NOT NULL,
    state               text COLLATE "C" NOT NULL CHECK (state IN ('reserved', 'spent', 'freed', 'unknown')),
    tx                  text COLLATE "C",
    day                 text COLLATE "C" NOT NULL,                          -- UTC, whose cap it counts against
    created_at          text COLLATE "C" NOT NULL,
    updated_at          text COLLATE "C" NOT NULL
);

CREATE INDEX wallet_spends_by_day ON wallet_spends (day, state, nusd);
CREATE INDEX wallet_spends_by_request ON wallet_spends (request_id);
CREATE INDEX wallet_spends_open ON wallet_spends (network, valid_before) WHERE state IN ('reserved', 'unknown');

CREATE FUNCTION wallet_spends_are_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'signatures are kept' USING ERRCODE = 'integrity_constraint_violation';
END
$$;

CREATE TRIGGER wallet_spends_lose_no_rows BEFORE DELETE OR TRUNCATE ON wallet_spends
FOR EACH STATEMENT EXECUTE FUNCTION wallet_spends_are_kept();

-- Whom a provider named first, where its file does not say whom to pay.
CREATE TABLE wallet_payees (
    provider            text COLLATE "C" NOT NULL,
    origin              text COLLATE "C" NOT NULL,
    network             text COLLATE "C" NOT NULL,
    pay_to              text COLLATE "C" NOT NULL,
    created_at          text COLLATE "C" NOT NULL,
    PRIMARY KEY (provider, origin)
);
