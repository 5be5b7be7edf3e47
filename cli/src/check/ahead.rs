//! What the plan says about what comes after the copy: the cutover and the way back.

use modshift_proto::plan::Plan;

/// Is the way back to be kept open? Its streams run from the first start on.
pub fn way_back(_plan: &Plan) -> bool {
    true
}

/// Accounts that the fence locks, as `user@host`; `None` where the plan does not say.
pub fn application_accounts(_plan: &Plan) -> Option<Vec<String>> {
    None
}
