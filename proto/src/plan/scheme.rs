//! `scheme` and `guard`: how rows come to the new shards, and, where servers are promoted, what keeps
//! rows out that live elsewhere.
//!
//! With `promote` each old shard becomes k shards without a row being copied: M = k·N, and new shard j
//! lives on a server of old shard j mod N, its primary for j < N. The rest of the plan is read
//! by the same code; what makes no sense with it is refused here.

use super::cutover::Cutover;
use super::section::Section;
use super::{Check, Log, Placement, Plan, Table, Verify};
use crate::shard::{Modulus, NewShard, OldShard};

/// How rows come to the new shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Snapshot and tail, onto servers or schemas of their own.
    Copy,
    /// Replication has brought them: servers of the old shards become shards of their own.
    Promote { guard: Guard },
}

/// What refuses a row on a shard where its key does not place it, once replication has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Triggers of modshift on every table.
    Triggers,
    /// Clients of the old and of the new mapping have accounts of their own, and the fence locks.
    Accounts,
    /// Nothing: a client with the old mapping writes where it likes, and is only reported. No plan has it
    /// as long as nothing reports it.
    None,
}

#[derive(Clone, Copy)]
enum Word {
    Copy,
    Promote,
}

const SCHEME_WORDS: [(&str, Word); 2] = [("copy", Word::Copy), ("promote", Word::Promote)];
const GUARD_WORDS: [(&str, Guard); 3] =
    [("triggers", Guard::Triggers), ("accounts", Guard::Accounts), ("none", Guard::None)];

impl Scheme {
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Copy => "copy",
            Scheme::Promote { .. } => "promote",
        }
    }

    pub fn is_promotion(self) -> bool {
        matches!(self, Scheme::Promote { .. })
    }
}

impl Guard {
    pub fn name(self) -> &'static str {
        super::render::word(&GUARD_WORDS, self)
    }
}

/// Numbers of shards are those of the plan that the operator wrote, whichever way this one goes.
impl Plan {
    /// Of a promotion: the old shard that the rows of a new one come from, and a server of which it
    /// lives on. `None` with any other scheme: there each new shard has rows of all.
    pub fn home(&self, shard: NewShard) -> Option<OldShard> {
        self.scheme.is_promotion().then(|| OldShard(shard.0 % self.written().old_modulus.get()))
    }

    /// Is the new shard on the very server and schema of an old one?
    pub fn is_in_place(&self, shard: NewShard) -> bool {
        self.scheme.is_promotion() && shard.0 < self.written().old_modulus.get()
    }

    /// The new shards that a replica becomes; none with any other scheme.
    pub fn promoted(&self) -> impl Iterator<Item = NewShard> + use<> {
        let plan = self.written();
        let moduli = self.scheme.is_promotion().then_some((plan.old_modulus, plan.new_modulus));
        moduli.into_iter().flat_map(|(old, new)| (old.get()..new.get()).map(NewShard))
    }

    /// The new shards that live on servers of this old one, the one in place first.
    pub fn heirs(&self, shard: OldShard) -> impl Iterator<Item = NewShard> + use<> {
        let plan = self.written();
        let moduli = self.scheme.is_promotion().then_some((plan.old_modulus, plan.new_modulus));
        moduli.into_iter().flat_map(move |(old, new)| {
            (shard.0..new.get()).step_by(usize::from(old.get())).map(NewShard)
        })
    }

    /// Of a promotion: one old shard and what is promoted of it, as the two are compared. Every row is
    /// on all of these servers, as those of a broadcast table are. New shard t of it is the t-th of
    /// the old shard's heirs behind the one in place.
    pub fn pair(&self, shard: OldShard) -> Option<Plan> {
        let heirs: Vec<NewShard> = self.heirs(shard).skip(1).collect();
        let number = u16::try_from(heirs.len()).ok()?;
        let everywhere = |table: &Table| Table {
            name: table.name.clone(),
            placement: Placement::Broadcast { source: OldShard(0) },
        };
        Some(Plan {
            old_modulus: Modulus::new(1)?,
            new_modulus: Modulus::new(number)?,
            old: vec![self.old.get(usize::from(shard.0))?.clone()],
            new: heirs.iter().map(|heir| self.new[usize::from(heir.0)].clone()).collect(),
            tables: self.tables.iter().map(everywhere).collect(),
            forward: None,
            ..self.clone()
        })
    }

    fn written(&self) -> &Plan {
        self.forward.as_deref().unwrap_or(self)
    }
}

pub(super) fn read(root: &Section<'_>) -> Scheme {
    let word = root.get("scheme").and_then(|item| item.word(&SCHEME_WORDS));
    let guard = root.get("guard").and_then(|item| item.word(&GUARD_WORDS));
    match word.unwrap_or(Word::Copy) {
        Word::Copy => {
            if guard.is_some() {
                root.fault_at("guard", "only scheme = \"promote\" has one");
            }
            Scheme::Copy
        }
        Word::Promote => {
            if guard == Some(Guard::None) {
                root.fault_at(
                    "guard",
                    "expected triggers or accounts: with none, rows that a client writes by the old \
                     mapping would stay on a shard that is not theirs, and so far nothing watches the \
                     binlogs for them",
                );
            }
            Scheme::Promote { guard: guard.unwrap_or(super::default::GUARD) }
        }
    }
}

/// Of how many servers each old shard makes a new one, its primary among them; a fault where that is
/// no whole number. 1 where nothing is promoted.
pub(super) fn times(
    scheme: Scheme,
    modulus: &Section<'_>,
    old: Option<Modulus>,
    new: Option<Modulus>,
) -> usize {
    let (true, Some(old), Some(new)) = (scheme.is_promotion(), old, new) else { return 1 };
    let (old, new) = (old.get(), new.get());
    if new > old && new.is_multiple_of(old) {
        return usize::from(new / old);
    }
    if new != old {
        modulus.fault_at(
            "new",
            format!(
                "expected a multiple of old = {old}, such as {}, found {new}: with scheme = \
                 \"promote\" every old shard becomes the same number of new ones",
                u32::from(old) * 2,
            ),
        );
    }
    1
}

/// What a promotion has no use for. A key that did nothing would be one that somebody relies on.
pub(super) fn refuse_others(root: &Section<'_>, log: Option<&Log>, verify: &Verify, check: &Check) {
    for (key, why) in [
        ("snapshot", "expected none with scheme = \"promote\": no row is copied"),
        (
            "rehearse",
            "expected none with scheme = \"promote\": a rehearsal copies rows to shards of its own",
        ),
    ] {
        if root.has(key) {
            root.fault_at(key, why);
        }
    }
    if let Some(Log::Kafka(_)) = log {
        root.section("log").fault_at(
            "kind",
            "expected direct, or no [log], with scheme = \"promote\": nothing travels but the way \
             back, inside one process",
        );
    }
    if verify.continuous {
        root.section("verify").fault_at(
            "continuous",
            "expected false with scheme = \"promote\": no process applies there; modshift verify \
             compares",
        );
    }
    if !check.accept_meeting.is_empty() {
        root.section("check").fault_at(
            "accept_meeting",
            "expected none with scheme = \"promote\": rows of different old shards do not meet",
        );
    }
}

/// Accounts as a guard hold only if no client of one side can come in as one of the other.
pub(super) fn check_accounts(root: &Section<'_>, scheme: Scheme, cutover: &Cutover) {
    if scheme != (Scheme::Promote { guard: Guard::Accounts }) {
        return;
    }
    let (old, new) = (&cutover.old_accounts, &cutover.new_accounts);
    let both = new.iter().find(|account| old.iter().any(|other| other.user == account.user));
    if old.is_empty() || new.is_empty() {
        root.fault_at("guard", "accounts needs old_accounts and new_accounts in [cutover]");
    } else if let Some(account) = both {
        root.fault_at(
            "guard",
            format!(
                "accounts needs a user name of its own for either mapping: {} is in old_accounts \
                 and new_accounts of [cutover]",
                account.user
            ),
        );
    }
}

pub(super) fn render(scheme: Scheme, out: &mut super::render::Rendered) {
    out.text("scheme", scheme.name());
    if let Scheme::Promote { guard } = scheme {
        out.text("guard", guard.name());
    }
}
