-- Agents work with these tables from version 4 on.
-- An entry of an index has at most 2,704 bytes. So the indexes have the key of a name: it is the name, or the begin and
-- the hash of a long one. Conditions must use the key too: without it, they read the whole table. Earlier agents use the
-- names, and need their primary keys.

-- Two names have the same key only if they are equal. No key of a long name is as short as a short name.
CREATE FUNCTION name_key(name text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF length(name) <= 255 THEN
        RETURN name;
    END IF;
    RETURN left(name, 255) || encode(sha256(convert_to(name, 'UTF8')), 'hex');
END $$;

ALTER TABLE projects DROP CONSTRAINT projects_provider_scope_name_key;
CREATE UNIQUE INDEX projects_key ON projects (name_key(provider), name_key(scope), name_key(name));
DROP INDEX projects_by_name;
CREATE INDEX projects_by_name ON projects (name_key(name));

DROP INDEX facts_of_run;
CREATE INDEX facts_of_run ON facts (project_id, name_key(run));
DROP INDEX deployments_of_run;
CREATE INDEX deployments_of_run ON deployments (project_id, name_key(run));
DROP INDEX deployments_by_place;
CREATE INDEX deployments_by_place ON deployments (name_key(environment), name_key(repo_url), ended_at);

ALTER TABLE weeks DROP CONSTRAINT weeks_pkey;
CREATE UNIQUE INDEX weeks_key ON weeks (name_key(environment), name_key(repo_url), week);

ALTER TABLE jobs DROP CONSTRAINT jobs_pkey;
CREATE UNIQUE INDEX jobs_key ON jobs (controller, name_key(full_name));
ALTER TABLE open_builds DROP CONSTRAINT open_builds_pkey;
CREATE UNIQUE INDEX open_builds_key ON open_builds (controller, name_key(full_name), number);
ALTER TABLE wanted_builds DROP CONSTRAINT wanted_builds_pkey;
CREATE UNIQUE INDEX wanted_builds_key ON wanted_builds (controller, name_key(full_name), number);
ALTER TABLE job_errors DROP CONSTRAINT job_errors_pkey;
CREATE UNIQUE INDEX job_errors_key ON job_errors (controller, name_key(full_name));
ALTER TABLE missed DROP CONSTRAINT missed_pkey;
CREATE UNIQUE INDEX missed_key ON missed (controller, name_key(full_name));
ALTER TABLE endings DROP CONSTRAINT endings_pkey;
CREATE UNIQUE INDEX endings_key ON endings (controller, name_key(full_name), first);
ALTER TABLE backfilled_jobs DROP CONSTRAINT backfilled_jobs_pkey;
CREATE UNIQUE INDEX backfilled_jobs_key ON backfilled_jobs (id, controller, name_key(full_name));
