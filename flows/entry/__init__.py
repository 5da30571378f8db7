"""What starts flows and keeps them company: environments, servers and other children."""
