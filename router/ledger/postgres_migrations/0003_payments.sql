-- What wallets have signed for requests, see payments.py: a row a claim. Amounts are atomic units of the asset as
-- decimal texts, since an asset of 18 decimals passes 64 bits at ten dollars. Whoever changes an account with a
-- row, or makes or removes one, has locked the account first.
CREATE TABLE payments (
    seq                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key                 text COLLATE "C" NOT NULL UNIQUE CHECK (key <> ''),
    challenge           text COLLATE "C" UNIQUE CHECK (challenge <> ''),
    protocol            text COLLATE "C" NOT NULL CHECK (protocol IN ('x402', 'mpp')),
    scheme              text COLLATE "C" NOT NULL CHECK (scheme IN ('exact', 'upto', 'evm/charge', 'tempo/charge')),
    network             text NOT NULL CHECK (network <> ''),
    asset               text NOT NULL CHECK (asset <> ''),
    payer               text NOT NULL CHECK (payer <> ''),
    pay_to              text NOT NULL CHECK (pay_to <> ''),
    amount              text COLLATE "C" NOT NULL CHECK (amount ~ '^[1-9][0-9]{0,77}$'), -- the most that may be taken
    expires_at          bigint NOT NULL,                -- seconds since 1970: the signature is void after
    settle_order        bytea NOT NULL,                 -- JSON: what settling needs again after a crash
    request_id          text COLLATE "C" NOT NULL UNIQUE CHECK (request_id <> ''),
    account             text COLLATE "C" NOT NULL REFERENCES accounts (id),
    amount_nusd         bigint NOT NULL CHECK (amount_nusd >= 0),
    state               text COLLATE "C" NOT NULL,
    owner               text COLLATE "C" NOT NULL,      -- the lease of the process that sees to it
    served_nusd         bigint CHECK (served_nusd >= 0),            -- the charge of the hold's settle
    metered_nusd        bigint CHECK (metered_nusd >= 0),           -- what the usage came to
    taken               text COLLATE "C" CHECK (taken ~ '^(0|[1-9][0-9]{0,77})$'), -- what is or was asked of the payer
    taken_nusd          bigint CHECK (taken_nusd >= 0),
    transaction_id      text COLLATE "C",               -- '' where nothing had to move
    reason              text,
    forgiven_nusd       bigint CHECK (forgiven_nusd >= 0),
    created_at          text NOT NULL,
    updated_at          text NOT NULL,
    CONSTRAINT no_more_is_taken_than_was_signed CHECK (
        length(taken) < length(amount) OR (length(taken) = length(amount) AND taken <= amount)
    ),
    CONSTRAINT nothing_taken_is_worth_nothing CHECK ((taken = '0') IS NOT DISTINCT FROM (taken_nusd = 0)),
    CONSTRAINT what_each_state_has CHECK (CASE state
        WHEN 'claimed' THEN taken IS NULL
        WHEN 'settling' THEN taken IS NOT NULL
        WHEN 'settled' THEN taken IS NOT NULL AND transaction_id IS NOT NULL
            AND (transaction_id <> '' OR taken = '0')
        WHEN 'failed' THEN true
        WHEN 'unknown' THEN true
        ELSE false END),
    CHECK ((transaction_id IS NOT NULL) = (state = 'settled')),
    CHECK ((reason IS NOT NULL) = (state IN ('failed', 'unknown'))),
    CHECK (metered_nusd IS NULL OR served_nusd IS NOT NULL),
    CHECK (forgiven_nusd IS NULL OR state NOT IN ('claimed', 'settling'))
);

-- One transfer pays for one request; a hash is the same in capitals.
CREATE UNIQUE INDEX "this transaction has paid for another request" ON payments (lower(transaction_id))
WHERE transaction_id <> '';

-- What a payer has open and owes.
CREATE INDEX payments_open ON payments (account) WHERE state <> 'settled';

-- Random bytes that all processes of this database share.
CREATE TABLE secrets (
    name                text COLLATE "C" PRIMARY KEY CHECK (name <> ''),
    value               bytea NOT NULL CHECK (length(value) = 32)
);
