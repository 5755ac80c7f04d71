-- What pages and figures need to answer quickly, for any number of deployments. Times are UTC milliseconds.

-- Environment, repository and time select deployments, and all names are found without reading all deployments.
CREATE INDEX deployments_by_place ON deployments (environment, repo_url, ended_at);
CREATE INDEX projects_by_name ON projects (name);

-- How many deployments were delivered and failed in each hour since 1970.
CREATE TABLE hours (hour INTEGER PRIMARY KEY, delivered INTEGER NOT NULL, failed INTEGER NOT NULL);
INSERT INTO hours (hour, delivered, failed)
    SELECT settled_at / 3600000 AS hour, sum(state = 'delivered'), sum(state = 'failed') FROM deployments
    WHERE state IN ('delivered', 'failed') AND settled_at IS NOT NULL GROUP BY hour;
CREATE TRIGGER hours_of_settled AFTER UPDATE OF state ON deployments
WHEN new.state IN ('delivered', 'failed') AND new.state <> old.state AND new.settled_at IS NOT NULL BEGIN
    INSERT INTO hours (hour, delivered, failed)
        VALUES (new.settled_at / 3600000, new.state = 'delivered', new.state = 'failed')
        ON CONFLICT (hour) DO UPDATE SET delivered = delivered + excluded.delivered, failed = failed + excluded.failed;
END;
-- Mostly failed ones, of which no event can be made. Others are copied from an older or a damaged file.
CREATE TRIGGER hours_of_inserted AFTER INSERT ON deployments
WHEN new.state IN ('delivered', 'failed') AND new.settled_at IS NOT NULL BEGIN
    INSERT INTO hours (hour, delivered, failed)
        VALUES (new.settled_at / 3600000, new.state = 'delivered', new.state = 'failed')
        ON CONFLICT (hour) DO UPDATE SET delivered = delivered + excluded.delivered, failed = failed + excluded.failed;
END;

-- The deployments of an ISO week to one environment from one repository, added up: see tally.py. '' is no environment
-- and no repository. There is a row for each week with deployments.
CREATE TABLE weeks (
    id INTEGER PRIMARY KEY,
    environment TEXT NOT NULL,
    repo_url TEXT NOT NULL,
    week INTEGER NOT NULL,             -- since 1970
    body BLOB,                         -- NULL: something has changed since, and the deployments themselves are read
    UNIQUE (environment, repo_url, week)
);
INSERT INTO weeks (environment, repo_url, week)
    SELECT DISTINCT coalesce(environment, ''), coalesce(repo_url, ''), (ended_at + 259200000) / 604800000
    FROM deployments;
CREATE INDEX weeks_to_add_up ON weeks (week) WHERE body IS NULL;
CREATE TRIGGER weeks_inserted AFTER INSERT ON deployments BEGIN
    INSERT INTO weeks (environment, repo_url, week) VALUES
        (coalesce(new.environment, ''), coalesce(new.repo_url, ''), (new.ended_at + 259200000) / 604800000)
        ON CONFLICT (environment, repo_url, week) DO UPDATE SET body = NULL WHERE body IS NOT NULL;
END;
CREATE TRIGGER weeks_changed
AFTER UPDATE OF state, status, environment, repo_url, branch, commit_hash, first_commit_at, started_at, ended_at ON deployments
WHEN (new.state = 'discarded') <> (old.state = 'discarded') OR new.ended_at <> old.ended_at
    OR new.status <> old.status OR new.environment IS NOT old.environment OR new.repo_url IS NOT old.repo_url
    OR new.commit_hash IS NOT old.commit_hash OR new.first_commit_at IS NOT old.first_commit_at
    OR new.started_at <> old.started_at
    OR (new.branch LIKE 'hotfix/%' OR new.branch LIKE 'hotfix-%')
        IS NOT (old.branch LIKE 'hotfix/%' OR old.branch LIKE 'hotfix-%') BEGIN
    INSERT INTO weeks (environment, repo_url, week) VALUES
        (coalesce(old.environment, ''), coalesce(old.repo_url, ''), (old.ended_at + 259200000) / 604800000),
        (coalesce(new.environment, ''), coalesce(new.repo_url, ''), (new.ended_at + 259200000) / 604800000)
        ON CONFLICT (environment, repo_url, week) DO UPDATE SET body = NULL WHERE body IS NOT NULL;
END;
CREATE TRIGGER weeks_deleted AFTER DELETE ON deployments BEGIN
    INSERT INTO weeks (environment, repo_url, week) VALUES
        (coalesce(old.environment, ''), coalesce(old.repo_url, ''), (old.ended_at + 259200000) / 604800000)
        ON CONFLICT (environment, repo_url, week) DO UPDATE SET body = NULL WHERE body IS NOT NULL;
END;
