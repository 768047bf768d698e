-- Who ends the hold of a dead process must know whether its charge is cut to it. Those that are open now have
-- delivered nothing that anyone wrote down, so what stands here for them is never asked.
ALTER TABLE open_holds ADD COLUMN require_credit INTEGER NOT NULL DEFAULT 1 CHECK (require_credit BETWEEN 0 AND 1);
