"""Reports of builds: emit, the HTTP intake, the spool folder."""
