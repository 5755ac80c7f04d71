"""The outbox in a PostgreSQL database. Nothing else imports psycopg; it is loaded when such an outbox is opened."""
