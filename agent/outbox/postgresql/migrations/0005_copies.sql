-- Agents work with these tables from version 5 on.
-- That this outbox was copied to another one, or is a copy: see agent/outbox/marks.py. Older agents would not see it.
CREATE TABLE copies (
    id integer PRIMARY KEY CHECK (id = 1),
    copy text NOT NULL,                     -- identifies the copy, in both outboxes
    role text NOT NULL,                     -- source, target
    other text NOT NULL,                    -- the other outbox
    complete boolean NOT NULL,
    progress text NOT NULL                  -- of a target: the last row that it has, as JSON
);

-- For triggers of an outbox that was copied: also an agent that stood still meanwhile changes nothing in it.
CREATE FUNCTION refuse_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'it is moved to another outbox, or was moved, and does not change' USING ERRCODE = '55000';
END $$;
