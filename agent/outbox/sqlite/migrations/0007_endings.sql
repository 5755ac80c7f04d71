-- What became of each build number of a job, for `audit`. Times are UTC milliseconds.

-- From that number on no rule matched the job, and nothing was read.
ALTER TABLE jobs ADD COLUMN no_rule_since INTEGER;
-- 1: the job was not in Jenkins' list, or had a lower number: what has its name next may be another one.
ALTER TABLE jobs ADD COLUMN absent INTEGER NOT NULL DEFAULT 0;

-- Ranges of numbers below a job's cursor; none overlaps another. Open builds may be in a range: then they are not ended.
CREATE TABLE endings (
    controller TEXT NOT NULL,
    full_name TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    ending TEXT NOT NULL,              -- before audit, former name, no rule, history, unreadable, read, no deployment
    at INTEGER NOT NULL,               -- when that was noted
    PRIMARY KEY (controller, full_name, first)
) WITHOUT ROWID;
-- Earlier versions did not note it.
INSERT INTO endings (controller, full_name, first, last, ending, at)
    SELECT controller, full_name, 1, next_build_number - 1, 'before audit', looked_at
    FROM jobs WHERE next_build_number > 1;
