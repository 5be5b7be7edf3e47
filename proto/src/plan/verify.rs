//! `[verify]`: how rows are compared.

use std::time::Duration;

use super::section::Section;
use super::{Verify, default};

pub(super) fn read(root: &Section<'_>) -> Verify {
    let section = root.section("verify");
    let ms = Duration::from_millis;
    let verify = Verify {
        continuous: section.flag("continuous"),
        rows_per_s_max: section
            .get("rows_per_s_max")
            .and_then(|item| item.number(1..=1_000_000_000))
            .and_then(|rows| u32::try_from(rows).ok()),
        chunk_time: section.duration("chunk_time", default::VERIFY_CHUNK_TIME, ms(1)..=ms(60_000)),
        chunk_rows_max: section.number(
            "chunk_rows_max",
            default::VERIFY_CHUNK_ROWS_MAX,
            1..=1_000_000,
        ),
        settle_max: section.duration(
            "settle_max",
            default::VERIFY_SETTLE_MAX,
            ms(1)..=ms(24 * 60 * 60 * 1000),
        ),
        changed_keys_max: section.number(
            "changed_keys_max",
            default::VERIFY_CHANGED_KEYS_MAX,
            1..=100_000_000,
        ),
    };
    section.finish();
    verify
}
