"""The core under both faces: operations, the book of a session, threads and the connection."""
