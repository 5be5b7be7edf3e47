use super::*;

/// All well: so many shards, every stream 0.2 s behind.
pub fn well(old: u16, new: u16) -> Status {
    let olds = (0..usize::from(old)).map(|old| Old {
        old,
        rows_copied: 1000,
        rows_estimated: 1000,
        copied: true,
        token_age_ms: Some(120),
        phase: Some("serving"),
        ..Old::default()
    });
    let news =
        (0..usize::from(new)).map(|new| New { new, phase: Some("fenced"), ..New::default() });
    let stream = |old| {
        let of =
            move |new| Stream { old, new, lag_ms: Some(200), groups_behind: Some(0), copied: true };
        (0..new).map(of)
    };
    let coverage = Coverage { tables: 3, proven: 3, under_way: Vec::new() };
    let verification =
        Verification { coverage, age_s: Some(720), limit_s: Some(3600), ..Verification::default() };
    Status {
        plan: "shop".into(),
        drawn_at: None,
        serves: Some(Serves::by_journal("old", "the old shards serve; no cutover yet".into())),
        fences: Vec::new(),
        old: olds.collect(),
        new: news.collect(),
        streams: (0..old).flat_map(stream).collect(),
        notes: Vec::new(),
        refused_logins: Vec::new(),
        waits: Vec::new(),
        back: Some(Back { streams: (0..old).flat_map(stream).collect(), ..Back::default() }),
        halts: Vec::new(),
        verification,
        daemons: Vec::new(),
        gate: Gate { open: Some(true), ..Gate::default() },
        max_lag_ms: 1000,
    }
}

#[test]
fn the_exit_code_says_well_wrong_unknown_or_halted() {
    let check = |change: &dyn Fn(&mut Status), exit| {
        let mut status = well(2, 3);
        change(&mut status);
        assert_eq!(status.exit(), exit);
    };
    let halt = |status: &mut Status| {
        let stream = "old shard 0 in modshift run".into();
        status.halts.push(Halt { stream, text: "binlog_row_image is MINIMAL".into() });
    };
    check(&|_| {}, Exit::Done);
    check(&|status| status.old[1].token_age_ms = None, Exit::No);
    check(&|status| status.old[1].token_age_ms = Some(60_000), Exit::No);
    check(&|status| status.old[1].repairs_refused = 1, Exit::No);
    let resync = |refused| Resync { table: "t".into(), rows_copied: 7, rows_estimated: 5, refused };
    check(&|status| status.old[1].resyncs = vec![resync(false)], Exit::Done);
    check(&|status| status.old[1].resyncs = vec![resync(true)], Exit::No);
    assert_eq!(resync(true).text(), "REFUSED resync of t: 7 of about 7 rows");
    check(&|status| status.old[1].skipped = vec![SkipFacts::default()], Exit::No);
    check(&|status| status.streams[4].lag_ms = Some(61_000), Exit::No);
    check(&|status| status.streams[4].lag_ms = None, Exit::Done);
    check(&|status| status.refused_logins.push("db refuses".into()), Exit::No);
    check(&|status| status.verification.differ = Some("3 rows".into()), Exit::No);
    check(&|status| status.verification.stopped.push("new shard 1".into()), Exit::No);
    let left = |status: &mut Status| {
        let serves = Serves::by_journal("none", "neither side serves".into());
        status.serves = Some(Serves { unfinished: true, ..serves });
    };
    check(&left, Exit::Halted);
    let attended = |side: &'static str, by: Option<&'static str>, exit| {
        let spoil = move |status: &mut Status| {
            let serves = Serves::by_journal(side, String::new());
            status.serves = Some(Serves { unfinished: true, attended: by, ..serves });
        };
        check(&spoil, exit);
    };
    attended("none", Some("operator"), Exit::No);
    attended("none", Some("daemon"), Exit::Halted);
    attended("old", Some("operator"), Exit::Done);
    attended("old", Some("daemon"), Exit::No);
    attended("new", None, Exit::No);
    check(&|status| status.new[1].parked_ms = Some(20_000), Exit::Done);
    check(&|status| status.new[1].parked_ms = Some(40_000), Exit::No);
    check(&|status| status.new[1].refused = 1, Exit::No);
    let back = |change: fn(&mut Back), serves: &'static str, exit| {
        let spoil = |status: &mut Status| {
            status.serves = Some(Serves::by_journal(serves, String::new()));
            change(status.back.as_mut().unwrap());
        };
        check(&spoil, exit);
    };
    let spoilt: [fn(&mut Back); 3] = [
        |back| back.unread = vec![2],
        |back| back.refused = true,
        |back| back.streams[4].lag_ms = Some(61_000),
    ];
    for spoil in spoilt {
        back(spoil, "new", Exit::No);
        back(spoil, "old", Exit::Done);
    }
    back(|_| {}, "new", Exit::Done);
    let finished = |status: &mut Status| {
        let serves = Serves::by_journal("new", "the new shards serve".into());
        status.serves = Some(Serves { finished: true, ..serves });
        status.old.iter_mut().for_each(|old| old.token_age_ms = None);
    };
    check(&finished, Exit::Done);
    let away = |status: &mut Status| status.new[2].unreachable = Some("gone".into());
    check(&away, Exit::CannotTell);
    check(&halt, Exit::Halted);
    let both = |status: &mut Status| {
        away(status);
        halt(status);
    };
    check(&both, Exit::Halted);
}
