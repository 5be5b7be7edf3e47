//! A row that an old shard could take must fit through to every new one.

use crate::check::fault::{Fault, Severity};
use crate::check::mend::{Mend, Way};
use crate::check::survey::{Facts, Survey};

pub fn check(survey: &Survey) -> Vec<Fault> {
    const NAME: &str = "max_allowed_packet";
    let size = |facts: &Facts| facts.variable(NAME).parse::<u64>().unwrap_or(0);
    let largest = survey
        .reached()
        .filter(|(server, _)| server.side.is_old())
        .map(|(server, facts)| (size(facts), server.side))
        .max();
    let Some((needed, widest)) = largest else { return Vec::new() };
    let narrow =
        survey.reached().filter(|(server, facts)| !server.side.is_old() && size(facts) < needed);
    narrow
        .map(|(server, facts)| {
            let actual = format!("{NAME} is {}", size(facts));
            Fault::new(Severity::Fault, "packet", server.side, actual)
                .expected(format!("at least {needed}, as on {widest}"))
                .mend(Mend::set(Way::SetPacket, NAME, needed))
        })
        .collect()
}
