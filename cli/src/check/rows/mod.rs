//! What has to read rows: the move matrix, strays, keys that would meet or that pages would miss, a measured trial.

pub mod broadcast;
pub mod collisions;
pub mod growth;
pub mod matrix;
pub mod pages;
pub mod record;
pub mod sample;
pub mod trial;
