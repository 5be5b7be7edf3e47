//! What the servers are and hold: read once from each, so that the rules are functions over data.
//!
//! Nothing here judges. What the account may not see is `None`, which is not the same as empty.

mod ask;
mod beside;
mod connections;
pub mod further;
#[cfg(test)]
pub mod made;
mod oldest;
mod pair;
mod privileged;
mod room;
mod sequence;
mod token;
mod variables;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use modshift_cutover::sequences::Sequence;
use modshift_mariadb::catalog::{CatalogError, EventInfo, TriggerInfo};
use modshift_mariadb::error::ServerError;
use modshift_mariadb::program::{Named, Program};
use modshift_mariadb::whole_log::Settings;
use modshift_mariadb::{Class, Few, Grants, control};
use modshift_proto::TableSchema;
use modshift_proto::message::TokenPhase;
use modshift_proto::plan::{Endpoint, Plan};

use super::fault::Side;
use super::rows::record::Record;

pub use beside::Beside;
#[cfg(test)]
pub use beside::Upstream;
pub use connections::Connections;
pub use further::{Further, Kind, Role, Standing};
pub use pair::{Both, End, Follower, Pair, Rights, ask as pair};
pub use privileged::{Account, Body, Sort};
#[cfg(test)]
pub use privileged::{administrator, plain_account, privileged_account, replication_account};
pub use room::{Room, RoomUnknown};
pub use token::Token;
pub use variables::Variables;

pub struct Survey {
    pub plan: Arc<Plan>,
    /// The shards' primaries.
    pub servers: Vec<Server>,
    /// Whatever else the plan names; nothing where no more is asked than a start needs.
    pub further: Vec<Further>,
    /// Servers to promote, each with its primary; of such a plan, where everything is asked.
    pub pairs: Vec<Pair>,
}

pub struct Server {
    pub side: Side,
    pub endpoint: Endpoint,
    pub facts: Result<Facts, Unreached>,
}

/// Why a server did not answer, and what to do about it.
pub struct Unreached {
    pub message: String,
    pub hint: Option<String>,
    /// It may answer later by itself. A login that is refused at the start is a plan's fault: what
    /// runs already tries again.
    pub passing: bool,
    /// It said no more than "Unknown error" (seen on 10.11.19 while other schemas of the server came
    /// and went): worth asking again.
    pub disturbed: bool,
}

/// How often such a server is asked.
const ASKED_MAX: u32 = 3;
const DISTURBED_PAUSE: Duration = Duration::from_millis(200);
const UNKNOWN_ERROR: u16 = 1105;

impl From<ServerError> for Unreached {
    fn from(error: ServerError) -> Unreached {
        let passing = passes(&error);
        let disturbed = error.code() == Some(UNKNOWN_ERROR);
        Unreached { message: error.to_string(), hint: error.hint(), passing, disturbed }
    }
}

fn passes(error: &ServerError) -> bool {
    error.class() == Class::Retry && !matches!(error, ServerError::Login { .. })
}

impl From<CatalogError> for Unreached {
    fn from(error: CatalogError) -> Unreached {
        let passing = match &error {
            CatalogError::Server(error) => passes(error),
            error => error.class() == Class::Retry,
        };
        let code = match &error {
            CatalogError::Server(error) => error.code(),
            _ => None,
        };
        let disturbed = code == Some(UNKNOWN_ERROR);
        Unreached { message: error.to_string(), hint: error.hint(), passing, disturbed }
    }
}

/// What one server said.
pub struct Facts {
    pub version: String,
    pub variables: Variables,
    pub grants: Grants,
    /// Of the login that the plan has for the cutover, where that is another; or why it may not
    /// come in.
    pub fencing: Option<Result<Grants, Unreached>>,
    /// Accounts that the cutover finds here, `user@host`, where the plan names some to lock.
    pub lockable: Option<Vec<String>>,
    /// Every account and role with its global privileges, and modshift's own.
    pub accounts: Option<Vec<Account>>,
    /// Accounts that may write in the schema, `user@host`; those that may write everywhere are
    /// in `accounts`.
    pub writers: Option<Vec<String>>,
    /// Server ids of replicas registered now.
    pub replica_ids: Option<Vec<u32>>,
    /// What its binlog leaves out by its own options; `None` where the account may not see it.
    pub log_filters: Option<Settings>,
    /// For each connection that it replicates by, what that leaves out.
    pub sources: Option<Vec<Settings>>,
    /// Everything in the schema that has a name.
    pub objects: Vec<Object>,
    /// Kinds of objects that the account cannot see.
    pub unseen: Vec<&'static str>,
    pub triggers: Vec<TriggerInfo>,
    pub events: Option<Vec<EventInfo>>,
    /// Triggers of planned tables, and events as far as the account may see them, with their whole
    /// definitions; or the name of one whose definition has an unknown form.
    pub programs: Vec<Result<Program, Named>>,
    /// Accounts there, `user@host`, and whether triggers of the schema may run in their name; `None`
    /// where the login of the cutover may not see it.
    pub definers: Option<BTreeMap<String, bool>>,
    /// Accounts, `user@host`, and the user name of the one in whose place each may act.
    pub proxies: Vec<(String, String)>,
    /// The schema's default.
    pub collation: String,
    /// The application's triggers were handed over to this shard.
    pub handed_over: bool,
    /// Stored code of the schema and in whose name it runs.
    pub bodies: Option<Vec<Body>>,
    pub sequences: BTreeMap<String, Sequence>,
    /// Those that a cutover could not read, and what they say.
    pub unknown_sequences: BTreeMap<String, String>,
    /// Planned tables that exist here.
    pub tables: BTreeMap<String, Table>,
    /// Transactions prepared by XA and neither committed nor rolled back.
    pub xa: Vec<String>,
    /// This server's clock less this host's.
    pub clock_ahead_us: i64,
    /// Is there a row in `modshift_watermark`? New shards only.
    pub has_watermark: bool,
    /// The plan's reshard was ended here by `modshift finish`.
    pub finished: bool,
    /// The reshard that modshift's tables here are of.
    pub owner: Option<control::Owner>,
    /// Of the disk with the data directory.
    pub room: Result<Room, RoomUnknown>,
    pub binlog: Binlog,
    /// Only where everything is asked.
    pub connections: Option<Connections>,
    /// What the last `check --deep` found. New shards only.
    pub collisions: Option<Record>,
    /// What its binlog is read by, table by table; empty where it never was.
    pub kept_tables: BTreeMap<String, String>,
    /// Applications write here, as its token says.
    pub serves: bool,
    pub token: Option<Token>,
    pub beside: Beside,
}

impl Facts {
    /// It replicates from another server.
    pub fn is_replica(&self) -> Option<bool> {
        self.sources.as_ref().map(|sources| !sources.is_empty())
    }

    /// Empty for a variable that this version does not have.
    pub fn variable(&self, name: &str) -> &str {
        self.variables.text(name)
    }

    pub fn number(&self, name: &str) -> f64 {
        self.variables.number(name)
    }

    pub fn is_on(&self, name: &str) -> bool {
        self.variables.is_on(name)
    }
}

/// How much is written, and how long it is kept.
#[derive(Clone, Copy, Debug)]
pub struct Binlog {
    /// Since the start of the server.
    pub written_bytes: u64,
    pub uptime: Duration,
    pub read_at: Instant,
    /// Age of the oldest file by the server's own clock.
    pub oldest: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub kind: &'static str,
    pub name: String,
}

pub struct Table {
    pub engine: String,
    /// As `SHOW CREATE TABLE` prints it.
    pub create: String,
    /// Refused where a column has a type that cannot be carried.
    pub schema: Result<TableSchema, Unreached>,
    pub empty: bool,
    /// InnoDB's estimate.
    pub rows: u64,
    /// Data and indexes, as far as the server knows.
    pub bytes: u64,
    /// The AUTO_INCREMENT column and the next value it gives out.
    pub counter: Option<(String, u64)>,
}

/// How much a survey asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What a daemon needs to know at each of its starts.
    Start,
    /// What correct rows depend on, asked again and again while the reshard runs: no more servers
    /// and questions than that takes.
    Gate,
    Whole,
}

impl Survey {
    pub async fn take(
        plan: Arc<Plan>,
        sides: impl IntoIterator<Item = Side>,
        extent: Extent,
    ) -> Survey {
        let few = &Few::default();
        let servers = sides.into_iter().map(|side| {
            let plan = plan.clone();
            async move {
                let endpoint = endpoint(&plan, side).clone();
                let _turn = few.turn(&endpoint).await;
                let facts = undisturbed(async || ask::ask(&plan, side, &endpoint, extent).await);
                Server { side, facts: facts.await, endpoint }
            }
        });
        let further = match extent {
            Extent::Start => Vec::new(),
            Extent::Gate => further::tailed(&plan),
            Extent::Whole => further::named(&plan),
        };
        let further = further.into_iter().map(|(endpoint, roles)| {
            let plan = plan.clone();
            async move {
                let facts = undisturbed(async || further::ask(&plan, &endpoint, &roles).await);
                Further { facts: facts.await, endpoint, roles }
            }
        });
        let promoted = plan.promoted().filter(|_| extent == Extent::Whole);
        let pairs =
            promoted.filter_map(|shard| Some((shard, plan.home(shard)?))).map(|(shard, home)| {
                let plan = plan.clone();
                async move {
                    let _turn = few.turn(&plan.new[usize::from(shard.0)]).await;
                    pair::ask(&plan, shard, home).await
                }
            });
        let servers = join(join_all(servers), join_all(further));
        let ((servers, further), pairs) = join(servers, join_all(pairs)).await;
        Survey { plan, servers, further, pairs }
    }

    /// Every server that was to be promoted and answered goes on by itself by now, whoever did it.
    pub fn is_split(&self) -> bool {
        let mut reached = self.pairs.iter().filter(|pair| pair.facts.is_ok()).peekable();
        reached.peek().is_some() && reached.all(Pair::is_split)
    }

    /// Of a promotion: the server of that new shard still holds what its primary does, or should.
    pub fn is_joined(&self, side: Side) -> bool {
        let split = self.pairs.iter().any(|pair| Side::New(pair.shard) == side && pair.is_split());
        self.plan.scheme.is_promotion() && !side.is_old() && !split
    }

    /// Servers that answered, in order, old ones first.
    pub fn reached(&self) -> impl Iterator<Item = (&Server, &Facts)> {
        self.servers.iter().filter_map(|server| Some((server, server.facts.as_ref().ok()?)))
    }

    pub fn olds(&self) -> impl Iterator<Item = (&Server, &Facts)> {
        self.reached().filter(|(server, _)| server.side.is_old())
    }

    pub fn news(&self) -> impl Iterator<Item = (&Server, &Facts)> {
        self.reached().filter(|(server, _)| !server.side.is_old())
    }

    /// The primary of a shard, if it answered.
    pub fn primary(&self, side: Side) -> Option<(&Server, &Facts)> {
        self.reached().find(|(server, _)| server.side == side)
    }

    /// Is a user one of modshift's own? Such an account is never to be locked or cut short.
    pub fn is_ours(&self, user: &str) -> bool {
        let plan = &self.plan;
        let shards = plan.old.iter().chain(&plan.new).map(|endpoint| endpoint.user.as_str());
        let rehearsal =
            plan.rehearse.iter().flat_map(|rehearse| rehearse.old.iter().chain(&rehearse.new));
        let login = plan.cutover.login.iter().map(|(user, _)| user.as_str());
        let mut ours = shards.chain(login).chain(rehearsal.map(|endpoint| endpoint.user.as_str()));
        ours.any(|own| own == user)
    }

    /// What an account is for.
    pub fn sort_of(&self, account: &Account) -> Sort {
        account.sort(self.is_ours(&account.user))
    }

    /// Has the shard of that side been let in to serve, by the last marker of a cutover or since its
    /// reader first read it?
    pub fn serves(&self, side: Side) -> bool {
        self.has_phase(side, TokenPhase::Serving)
    }

    /// Do applications write there? An old shard without a token was never fenced.
    pub fn takes_writes(&self, side: Side) -> bool {
        let Some((_, facts)) = self.primary(side) else { return side.is_old() };
        let serving = |token: Token| token.phase == TokenPhase::Serving;
        facts.handed_over || facts.token.map_or(side.is_old(), serving)
    }

    /// Is it closed by a fence, or not opened yet?
    pub fn is_fenced(&self, side: Side) -> bool {
        self.has_phase(side, TokenPhase::Fenced)
    }

    /// Do its rows come from the other side, so that they can be brought again?
    pub fn is_expendable(&self, side: Side) -> bool {
        !side.is_old() && !self.serves(side)
    }

    fn has_phase(&self, side: Side, phase: TokenPhase) -> bool {
        let token = self.primary(side).and_then(|(_, facts)| facts.token);
        token.is_some_and(|token| token.phase == phase)
    }

    /// Each part that each further server plays, of those that answered.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.further.iter().flat_map(|further| {
            let facts = further.facts.as_ref().ok();
            further.roles.iter().filter_map(move |role| Some(Part { further, role, facts: facts? }))
        })
    }

    /// Replicas of shards, the one that is tailed among them; and of a pair of masters the one that
    /// the shard's host does not lead to.
    pub fn replicas(&self) -> impl Iterator<Item = Part<'_>> {
        self.parts()
            .filter(|part| !part.role.kind.is_rehearsal() && !self.is_primary_by_pair(*part))
    }

    /// Where a virtual address is the shard's host, the plan lists both of its servers beside it.
    fn is_primary_by_pair(&self, part: Part<'_>) -> bool {
        let (at, side) = (part.further.at(), part.role.side);
        let Some(peers) = &endpoint(&self.plan, side).peers else { return false };
        part.role.kind == Kind::Replica
            && peers.servers.iter().any(|peer| peer.at == at)
            && self.primary(side).is_some_and(|(_, facts)| {
                facts.variables.identity() == part.facts.variables.identity()
            })
    }

    /// The replica that is read in the place of a shard's primary.
    pub fn tailed(&self, side: Side) -> Option<Part<'_>> {
        self.replicas().find(|part| part.role.side == side && part.role.kind == Kind::Tailed)
    }

    /// Where the binlog of each old shard is read; not of one that did not answer.
    pub fn logs(&self) -> impl Iterator<Item = Log<'_>> {
        self.olds().filter_map(|(server, facts)| {
            if server.endpoint.read_from.is_none() {
                return Some(Log {
                    side: server.side,
                    subject: server.side.to_string(),
                    variables: &facts.variables,
                    room: facts.room.as_ref().ok(),
                    oldest: facts.binlog.oldest,
                });
            }
            let part = self.tailed(server.side)?;
            Some(Log {
                side: server.side,
                subject: part.name(),
                variables: &part.facts.variables,
                room: part.facts.room.as_ref().ok(),
                oldest: part.facts.oldest,
            })
        })
    }
}

/// The binlog that a reader reads.
pub struct Log<'a> {
    pub side: Side,
    pub subject: String,
    pub variables: &'a Variables,
    pub room: Option<&'a Room>,
    /// Age of its oldest file by the server's own clock.
    pub oldest: Option<Duration>,
}

/// A part that a server plays beside the primaries.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    pub further: &'a Further,
    pub role: &'a Role,
    pub facts: &'a Standing,
}

impl Part<'_> {
    pub fn name(&self) -> String {
        self.further.part(self.role)
    }

    pub fn is_tailed(&self) -> bool {
        self.role.kind == Kind::Tailed
    }

    pub fn schema(&self) -> Option<&further::Schema> {
        self.facts.schemas.get(&self.role.schema)
    }
}

/// Asked again while other things on the server get in the way.
async fn undisturbed<T>(asking: impl AsyncFn() -> Result<T, Unreached>) -> Result<T, Unreached> {
    let mut facts = asking().await;
    for _ in 1..ASKED_MAX {
        if !facts.as_ref().is_err_and(|unreached| unreached.disturbed) {
            break;
        }
        tokio::time::sleep(DISTURBED_PAUSE).await;
        facts = asking().await;
    }
    facts
}

pub fn endpoint(plan: &Plan, side: Side) -> &Endpoint {
    match side {
        Side::Old(shard) => &plan.old[usize::from(shard.0)],
        Side::New(shard) => &plan.new[usize::from(shard.0)],
    }
}

/// Every shard of the plan, old ones first.
pub fn all_sides(plan: &Plan) -> Vec<Side> {
    plan.old_shards().map(Side::Old).chain(plan.new_shards().map(Side::New)).collect()
}
