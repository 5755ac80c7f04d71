-- What became of each build number of a job, for `audit`. Times are UTC milliseconds.

-- From this number on, no rule matched the job, and no build was read.
ALTER TABLE jobs ADD COLUMN no_rule_since INTEGER;
-- 1: the job was not in Jenkins' list or had a lower number. The next job with its name may be a different one.
ALTER TABLE jobs ADD COLUMN absent INTEGER NOT NULL DEFAULT 0;

-- Ranges of numbers below a job's cursor, without overlaps. A range may contain open builds; those have not ended.
CREATE TABLE endings (
    controller TEXT NOT NULL,
    full_name TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    ending TEXT NOT NULL,              -- before audit, former name, no rule, history, unreadable, read, no deployment
    at INTEGER NOT NULL,               -- when it was recorded
    PRIMARY KEY (controller, full_name, first)
) WITHOUT ROWID;
-- Earlier versions did not record it.
INSERT INTO endings (controller, full_name, first, last, ending, at)
    SELECT controller, full_name, 1, next_build_number - 1, 'before audit', looked_at
    FROM jobs WHERE next_build_number > 1;
