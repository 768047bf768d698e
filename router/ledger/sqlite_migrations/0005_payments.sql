-- What wallets have signed for requests, see payments.py: a row a claim. Amounts are atomic units of the asset as
-- decimal texts, since an asset of 18 decimals passes 64 bits at ten dollars.
CREATE TABLE payments (
    seq                 INTEGER PRIMARY KEY,
    key                 TEXT NOT NULL UNIQUE CHECK (key <> ''),
    challenge           TEXT UNIQUE CHECK (challenge <> ''),
    protocol            TEXT NOT NULL CHECK (protocol = 'x402' OR protocol = 'mpp'),
    scheme              TEXT NOT NULL CHECK (scheme IN ('exact', 'upto', 'evm/charge', 'tempo/charge')),
    network             TEXT NOT NULL CHECK (network <> ''),
    asset               TEXT NOT NULL CHECK (asset <> ''),
    payer               TEXT NOT NULL CHECK (payer <> ''),
    pay_to              TEXT NOT NULL CHECK (pay_to <> ''),
    amount              TEXT NOT NULL CHECK (amount <> '0'),        -- the most that may be taken
    expires_at          INTEGER NOT NULL,               -- seconds since 1970: the signature is void after
    settle_order        BLOB NOT NULL,                  -- JSON: what settling needs again after a crash
    request_id          TEXT NOT NULL UNIQUE CHECK (request_id <> ''),
    account             TEXT NOT NULL REFERENCES accounts (id),
    amount_nusd         INTEGER NOT NULL CHECK (amount_nusd >= 0),
    state               TEXT NOT NULL,
    owner               TEXT NOT NULL,                  -- the process that sees to it, see owners.py
    served_nusd         INTEGER CHECK (served_nusd >= 0),           -- the charge of the hold's settle
    metered_nusd        INTEGER CHECK (metered_nusd >= 0),          -- what the usage came to
    taken               TEXT,                           -- what is or was asked of the payer
    taken_nusd          INTEGER CHECK (taken_nusd >= 0),
    transaction_id      TEXT,                           -- '' where nothing had to move
    reason              TEXT,
    forgiven_nusd       INTEGER CHECK (forgiven_nusd >= 0),
    created_at          TEXT NOT NULL,
    updated_at          TEXT NOT NULL,
    CHECK (amount NOT GLOB '*[^0-9]*' AND amount NOT GLOB '0?*' AND length(amount) BETWEEN 1 AND 78),
    CHECK (taken NOT GLOB '*[^0-9]*' AND taken NOT GLOB '0?*' AND length(taken) > 0),
    CHECK (length(taken) < length(amount) OR (length(taken) = length(amount) AND taken <= amount)),
    CHECK ((taken = '0') IS (taken_nusd = 0)),
    -- What each state has; another one is NULL here.
    CHECK (CASE state
        WHEN 'claimed' THEN taken IS NULL
        WHEN 'settling' THEN taken IS NOT NULL
        WHEN 'settled' THEN taken IS NOT NULL AND transaction_id IS NOT NULL
            AND (transaction_id <> '' OR taken = '0')
        WHEN 'failed' THEN 1
        WHEN 'unknown' THEN 1
        END IS 1),
    CHECK ((transaction_id IS NOT NULL) = (state = 'settled')),
    CHECK ((reason IS NOT NULL) = (state = 'failed' OR state = 'unknown')),
    CHECK (metered_nusd IS NULL OR served_nusd IS NOT NULL),
    CHECK (forgiven_nusd IS NULL OR (state <> 'claimed' AND state <> 'settling'))
) STRICT;

-- One transfer pays for one request; a hash is the same in capitals.
CREATE UNIQUE INDEX "this transaction has paid for another request" ON payments (lower(transaction_id))
WHERE transaction_id <> '';

-- What a payer has open and owes.
CREATE INDEX payments_open ON payments (account) WHERE state <> 'settled';

-- Random bytes that all processes of this database share.
CREATE TABLE secrets (
    name                TEXT PRIMARY KEY CHECK (name <> ''),
    value               BLOB NOT NULL CHECK (length(value) = 32)
) STRICT, WITHOUT ROWID;
