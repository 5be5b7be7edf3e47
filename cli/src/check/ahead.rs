//! What the plan says about what comes after the copy: the cutover and the way back.

use modshift_proto::plan::{AutoIncrement, Plan};

/// Is the way back to be kept open? Its streams run from the first start on.
pub fn way_back(plan: &Plan) -> bool {
    plan.back.enabled
}

/// Does the cutover itself set the steps of AUTO_INCREMENT?
pub fn interleaves(plan: &Plan) -> bool {
    plan.cutover.auto_increment == AutoIncrement::Interleave
}

/// Accounts that the fence locks on old shards, as `user@host`; `None` where the plan names none.
pub fn application_accounts(plan: &Plan) -> Option<Vec<String>> {
    let accounts: Vec<String> = plan.cutover.old_accounts.iter().map(ToString::to_string).collect();
    (!accounts.is_empty()).then_some(accounts)
}
