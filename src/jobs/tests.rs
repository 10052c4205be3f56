//! Jobs over the SQLite store in a folder of their own, time moved by hand.
