"""What a session writes before it counts, and how it is read: by the session, its replay, its page, whoever prunes."""
