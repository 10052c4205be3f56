//! Puts the rooms together: sees every room, decides nothing.
