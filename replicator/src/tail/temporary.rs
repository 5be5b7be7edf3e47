//! Temporary tables, as far as statements in the log made them.
//!
//! Within its session such a table hides another one of its name, from definitions and writes alike.
//! What was made before this connection began is not known: statements are taken to mean the other
//! table. No such table outlives its server, which counts its sessions from one again.

use std::collections::{HashMap, HashSet};

use super::Tail;
use super::statement::{Said, place};
use crate::binlog::Table;

/// Which server gave a session its number, and the number.
type Whose = (u32, u32);

/// So many are forgotten all at once: what is not known is no temporary table.
const TABLES_MAX: usize = 10_000;

#[derive(Default)]
pub(super) struct Temporary {
    made: HashMap<Whose, HashSet<(String, String)>>,
    count: usize,
}

impl Temporary {
    fn make(&mut self, whose: Whose, at: (String, String)) {
        if self.count >= TABLES_MAX {
            *self = Temporary::default();
        }
        self.count += usize::from(self.made.entry(whose).or_default().insert(at));
    }

    fn take_down(&mut self, whose: Whose, at: &(String, String)) {
        if let Some(tables) = self.made.get_mut(&whose) {
            self.count -= usize::from(tables.remove(at));
            if tables.is_empty() {
                self.made.remove(&whose);
            }
        }
    }

    fn forget(&mut self, whose: Whose) {
        self.count -= self.made.remove(&whose).map_or(0, |tables| tables.len());
    }
}

impl Tail {
    /// The group's own server: a replica logs what its primary's sessions did under their numbers.
    fn whose(&self, said: Said<'_>) -> Whose {
        let server = self.group.as_ref().map_or(0, |group| group.gtid.server);
        (server, said.session.thread)
    }

    fn hidden(&self, said: Said<'_>, table: &Table) -> Option<(String, String)> {
        let (schema, name) = place(said.schema, table)?;
        // Other spellings are the same there.
        let fold = |text: String| if self.names.fold { text.to_lowercase() } else { text };
        Some((fold(schema), fold(name)))
    }

    pub(super) fn makes_temporary(&mut self, said: Said<'_>, table: &Table) {
        if let Some(at) = self.hidden(said, table) {
            self.temporary.make(self.whose(said), at);
        }
    }

    pub(super) fn drops_temporary(&mut self, said: Said<'_>, tables: &[Table]) {
        for table in tables {
            if let Some(at) = self.hidden(said, table) {
                self.temporary.take_down(self.whose(said), &at);
            }
        }
    }

    /// Tables of this session may have other names by now.
    pub(super) fn renames_temporary(&mut self, said: Said<'_>) {
        self.temporary.forget(self.whose(said));
    }

    /// Is this name that of a temporary table? The statement itself says that it depends on its
    /// session.
    pub(super) fn is_temporary(&self, said: Said<'_>, table: &Table) -> bool {
        let made = || self.temporary.made.get(&self.whose(said));
        said.session.specific
            && made()
                .is_some_and(|made| self.hidden(said, table).is_some_and(|at| made.contains(&at)))
    }
}
