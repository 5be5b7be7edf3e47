//! What a daemon needs on its own host to end a cutover in an operator's place. Its login and its
//! grants are those of the cutover, which `grants` asks for.

use modshift_proto::plan::{RoutingKind, RoutingTarget};

use crate::check::fault::{Fault, Severity, some_of};
use crate::check::survey::Survey;

const RULE: &str = "watchdog";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let plan = &survey.plan;
    if !plan.cutover.watchdog {
        let actual = "says cutover.watchdog = false: if the operator's process dies amid the pause, \
                      neither side serves until a person comes";
        return vec![
            Fault::new(Severity::Note, RULE, "the plan", actual)
                .expected("the daemons to end such a run once its budget is over")
                .mend("cutover.watchdog = true in the plan"),
        ];
    }
    let local: Vec<&str> =
        plan.routing.iter().filter(|target| is_local(target)).map(|t| t.name.as_str()).collect();
    if local.is_empty() {
        return Vec::new();
    }
    let actual = format!(
        "publishes to {}: a command or a file, which a daemon that ends a cutover in the operator's \
         place runs or writes on its own host",
        some_of(local)
    );
    vec![
        Fault::new(Severity::Note, RULE, "the plan", actual)
            .expected("the daemons on the host on which modshift cutover is run")
            .mend("run one of them there, or use a routing target that every host reaches"),
    ]
}

fn is_local(target: &RoutingTarget) -> bool {
    match &target.kind {
        RoutingKind::File { .. } | RoutingKind::Command { .. } => true,
        RoutingKind::ProxySql(sql) => sql.file.is_some(),
        RoutingKind::ShardingSphere(_) => true,
        RoutingKind::Http { .. } | RoutingKind::Etcd(_) | RoutingKind::ZooKeeper(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use modshift_proto::plan::EtcdTarget;

    use super::*;
    use crate::check::survey::made;

    #[test]
    fn what_a_daemon_needs_on_its_host_is_noted() {
        let check = |kind: Option<RoutingKind>, expected: Option<&str>| {
            let mut survey = made::survey(|_, _| {});
            let plan = Arc::make_mut(&mut survey.plan);
            let timeout = Duration::from_secs(1);
            let target = |kind| RoutingTarget {
                name: "clients".to_owned(),
                timeout,
                follow_symlinks: false,
                kind,
            };
            plan.routing = kind.map(target).into_iter().collect();
            let found: Vec<String> =
                super::check(&survey).iter().map(|fault| fault.actual.clone()).collect();
            assert_eq!(found.len(), usize::from(expected.is_some()), "{found:?}");
            assert!(found.iter().all(|text| text.contains(expected.unwrap_or_default())));
        };
        let etcd = EtcdTarget {
            endpoints: vec!["http://h:2379".to_owned()],
            key: "/r".to_owned(),
            login: None,
            tls_ca: None,
        };
        check(None, None);
        check(Some(RoutingKind::Etcd(etcd)), None);
        check(Some(RoutingKind::File { path: "/r.json".into() }), Some("publishes to clients"));
        let command = RoutingKind::Command { argv: vec!["/r".to_owned()], env: vec![] };
        check(Some(command), Some("publishes to clients"));
        let mut given_up = made::survey(|_, _| {});
        Arc::make_mut(&mut given_up.plan).cutover.watchdog = false;
        assert!(super::check(&given_up)[0].actual.contains("cutover.watchdog = false"));
    }
}
