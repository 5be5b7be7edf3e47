//! What a verification proves, and for how long.
