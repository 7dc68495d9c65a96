"""Everything that touches a socket, a thread or a signal; the only importer of redis."""
