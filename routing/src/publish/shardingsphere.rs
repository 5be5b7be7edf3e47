//! ShardingSphere.
use std::time::Instant;

use modshift_proto::plan::ShardingSphereTarget;

use super::Ack;
use super::error::Failure;
use crate::document::Document;

pub async fn publish(
    _target: &ShardingSphereTarget,
    _document: &Document,
    _deadline: Instant,
) -> Result<Ack, Failure> {
    Err(Failure::Unfit { detail: "not yet".to_owned() })
}

pub fn preview(_target: &ShardingSphereTarget, _document: &Document) -> Result<String, Failure> {
    Err(Failure::Unfit { detail: "not yet".to_owned() })
}
