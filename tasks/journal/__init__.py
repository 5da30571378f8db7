"""The write-ahead journal of a session, and its reader for the session, the replay, the session's page and pruning."""
