-- Agents work with these tables from version 5 on.

-- Each call sees what was committed before it, also what was committed after its statement began.
CREATE FUNCTION is_forgotten(hash bytea) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM 1 FROM forgotten WHERE id_hash = hash;
    RETURN FOUND;
END $$;
