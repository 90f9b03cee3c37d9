//! Follows a pool's source and sends whole sets of endpoints; an error is never a set.
