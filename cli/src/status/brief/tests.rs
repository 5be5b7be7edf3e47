use modshift_consumer::gate::Decision;

use super::*;
use crate::control::pages::{Daemon, Said};
use crate::status::found::tests::well;
use crate::status::found::{Gate, Halt, New};

fn drawn(status: &Status, rows: usize, columns: usize) -> String {
    text(status, Terminal::of_size(rows, columns), true)
}

#[test]
fn who_serves_comes_first_and_each_matter_has_its_line() {
    let mut status = well(2, 3);
    status.old[1].copied = false;
    status.old[1].rows_copied = 500;
    status.new[2].parked = 2;
    status.gate.open = Some(false);
    status.gate.summary = vec!["all 6 streams behind, worst 1.9 s (old 1 -> new 2)".into()];
    let expected = "shop: 2 -> 3 shards\n\
        the old shards serve; no cutover yet\n\
        copy      75.0 % of about 2000 rows; least of old 1: 50.0 %\n\
        read      newest tokens up to 0.1 s old (old 1)\n\
        parked    2 rows wait for their place on new 2\n\
        lag, s to      0     1     2\n  \
            old 0      0.2   0.2   0.2\n  \
            old 1      0.2   0.2   0.2\n\
        verified  all 3 tables equal, oldest proof 12 min ago\n\
        daemons   none answers at : pause and throttle are not known\n\
        way back: its streams run, with nothing to carry before the cutover\n\
        gate      closed: all 6 streams behind, worst 1.9 s (old 1 -> new 2)";
    assert_eq!(text(&status, Terminal::PLAIN, false), expected);
}

#[test]
fn sixteen_to_twenty_four_fit_a_small_terminal() {
    let fits = |status: &Status| {
        let text = drawn(status, 24, 80);
        assert!(text.lines().count() <= 24, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.lines().nth(1).unwrap().contains("the old shards serve"), "{text}");
        text
    };
    let mut status = well(16, 24);
    fits(&status);
    for stream in &mut status.streams {
        stream.lag_ms = Some(i64::from(stream.old) * 1000 + 1500);
    }
    status.gate.open = Some(false);
    status.gate.summary = (0..9).map(|n| format!("reason {n} {}", "word ".repeat(20))).collect();
    for new in &mut status.new {
        new.unreachable = Some("db:3306 cannot be reached: Connection refused".into());
    }
    let text = fits(&status);
    assert!(text.contains("new shards 0-23 do not answer: db:3306"), "{text}");
    assert!(text.contains("old 15  worst 16.5 s"), "{text}");
}

#[test]
fn a_halt_is_shown_whole_and_who_serves_stays_in_view() {
    let mut status = well(16, 24);
    let way_out = "undo the write, then `modshift rearm --shard 3`";
    let halt = |n| Halt {
        stream: format!("reader of old shard {n}"),
        text: format!("{} {way_out}", "a reason of many words ".repeat(8)),
    };
    let whole = |status: &Status, times| {
        let text = drawn(status, 24, 80);
        let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(joined.matches(way_out).count(), times, "{text}");
        text
    };
    status.halts = vec![halt(1)];
    assert!(whole(&status, 1).lines().count() <= 24);
    status.halts = (0..16).map(halt).collect();
    let text = whole(&status, 16);
    let tail: Vec<&str> = text.lines().rev().take(2).collect();
    assert_eq!(tail, ["the old shards serve; no cutover yet", "shop: 16 -> 24 shards"]);
}

#[test]
fn without_the_journal_each_shard_speaks_for_itself() {
    let mut status = well(3, 2);
    let text = "which side serves is not known: db:3306 cannot be reached".to_owned();
    status.serves = Some(Serves::by_journal("unknown", text));
    let gone = Some("db:3306 cannot be reached".to_owned());
    status.new[0] = New { new: 0, unreachable: gone, ..New::default() };
    status.old[1].phase = Some("fenced");
    let text = super::text(&status, Terminal::PLAIN, false);
    let said = "by what each shard says of itself: serving: old 0, 2; fenced: old 1; fenced: new 1";
    assert!(text.contains(said), "{text}");
    assert!(text.contains("\nnew shard 0 does not answer: db:3306 cannot be reached\n"), "{text}");
}

#[test]
fn nothing_is_claimed_of_shards_that_do_not_answer() {
    let gone = || Some("db:3306 cannot be reached".to_owned());
    let mut status = well(2, 2);
    status.verification.age_s = None;
    status.streams.iter_mut().for_each(|stream| stream.lag_ms = None);
    status.old = (0..2).map(|old| Old { old, unreachable: gone(), ..Old::default() }).collect();
    status.new = (0..2).map(|new| New { new, unreachable: gone(), ..New::default() }).collect();
    let text = super::text(&status, Terminal::PLAIN, false);
    for claim in ["not begun", "not yet", "ready", "streams run", "all copied", "verified  all"] {
        assert!(!text.contains(claim), "{claim}: {text}");
    }
    assert_eq!(text.matches("not known").count(), 5 + 1, "{text}");
    // One of two: the other has copied all of its own.
    status.old[0] = well(1, 1).old.remove(0);
    let text = super::text(&status, Terminal::PLAIN, false);
    let said = "copy      all copied, 1000 rows; not known of those that do not answer";
    assert!(text.contains(said), "{text}");
}

#[test]
fn what_was_never_read_is_no_copy_without_trouble() {
    let mut status = well(2, 2);
    status.old[1] = Old { old: 1, ..Old::default() };
    let text = super::text(&status, Terminal::PLAIN, false);
    assert!(text.contains("old 1 never read: no daemon has begun there"), "{text}");
    assert!(text.contains("least of old 1: 0.0 %"), "{text}");
    assert!(!text.contains("way back: ready"), "{text}");
}

#[test]
fn words_are_wrapped_and_none_is_lost() {
    let text = "new shard 3: a row of t_user holds the key of another, and a-word-too-long";
    for columns in 8..90 {
        let lines = wrap(Line::plain(text), columns);
        let joined: String = lines.iter().map(|line| line.text.trim()).collect();
        assert_eq!(joined.replace(' ', ""), text.replace(' ', ""), "{columns}");
        assert!(lines.iter().all(|line| line.text.chars().count() <= columns), "{columns}");
    }
}

#[test]
fn a_way_back_that_has_lost_a_shard_is_not_ready_once_it_is_needed() {
    let gone = || Some("db:3306 cannot be reached".to_owned());
    for old_side in [true, false] {
        let mut status = well(2, 3);
        match old_side {
            true => status.old[1] = Old { old: 1, unreachable: gone(), ..Old::default() },
            false => status.new[2] = New { new: 2, unreachable: gone(), ..New::default() },
        }
        let said = |status: &Status| text(status, Terminal::PLAIN, false);
        assert!(said(&status).contains("way back: not known"), "{}", said(&status));
        status.serves = Some(Serves::by_journal("new", "the new shards serve".into()));
        let text = said(&status);
        assert!(text.contains("way back: NOT READY: "), "{text}");
        for claim in ["way back: ready", "before the cutover"] {
            assert!(!text.contains(claim), "{claim}: {text}");
        }
    }
}

#[test]
fn rows_that_are_not_stored_are_not_said_to_wait_for_a_place() {
    let mut status = well(2, 3);
    status.new[1].parked = 5;
    status.new[1].refused = 2;
    status.new[2].parked = 1;
    status.new[2].refused = 1;
    let text = text(&status, Terminal::PLAIN, false);
    assert!(text.contains("parked    3 rows wait for their place on new 1\n"), "{text}");
    let refused = "parked    3 rows are not stored as they are, and wait for a change of their own, on new 1-2";
    assert!(text.contains(refused), "{text}");
}

#[test]
fn after_the_cutover_no_proof_grows_old() {
    let mut status = well(2, 3);
    status.verification.age_s = Some(100_000);
    assert!(text(&status, Terminal::PLAIN, false).contains("\nverified  "));
    status.serves = Some(Serves::by_journal("new", "the new shards serve".into()));
    assert!(!text(&status, Terminal::PLAIN, false).contains("\nverified  "));
    status.verification.differ = Some("3 rows".into());
    assert!(text(&status, Terminal::PLAIN, false).contains("\nverified  ROWS DIFFER: 3 rows"));
}

fn daemon(role: &'static str, gate_open: Option<bool>) -> Daemon {
    Daemon {
        role,
        url: "http://h:1".to_owned(),
        answers: gate_open.is_some(),
        why: gate_open.is_none().then(|| "connection refused".to_owned()),
        pace: gate_open.map(|_| 1.0),
        held: None,
        gate_open,
        objections: Vec::new(),
        away: Vec::new(),
        holds: false,
    }
}

#[test]
fn a_daemon_that_is_silent_is_named_beside_one_that_answers() {
    let mut status = well(2, 3);
    status.daemons = vec![daemon("replicator", Some(true)), daemon("consumer", None)];
    let text = text(&status, Terminal::PLAIN, false);
    let said = "daemons   consumer at http://h:1 does not answer (connection refused): its pause";
    assert!(text.contains(said), "{text}");
    assert!(text.contains("throttle  none"), "{text}");
}

#[test]
fn one_daemon_that_says_no_outweighs_one_that_says_yes() {
    let decision = Decision {
        open: true,
        reasons: Vec::new(),
        notes: Vec::new(),
        streams: Vec::new(),
        back: Vec::new(),
    };
    let check = |closed: Daemon, cannot_tell, expected: &str| {
        let daemons = vec![daemon("replicator", Some(true)), closed];
        let gate = Gate::of(&decision, &Said { daemons, ..Said::default() });
        assert_eq!((gate.open, gate.cannot_tell), (Some(false), cannot_tell));
        let status = Status { gate, ..well(2, 3) };
        let text = text(&status, Terminal::PLAIN, false);
        assert!(text.ends_with(&format!("\ngate      {expected}")), "{text}");
    };
    let no = || daemon("consumer", Some(false));
    check(
        Daemon { holds: true, ..no() },
        false,
        "closed: within limits, but not yet for as long as gate.hold",
    );
    check(no(), false, "closed by a daemon's gate a moment ago; modshift gate says why");
    let lines = |text: &str| vec![text.to_owned()];
    check(
        Daemon { objections: lines("a stream has halted"), ..no() },
        false,
        "closed: a stream has halted",
    );
    check(
        Daemon { away: lines("new shard 1 is away"), ..no() },
        true,
        "unknown, so closed: new shard 1 is away",
    );
}

#[test]
fn a_screen_says_when_it_was_drawn() {
    let drawn_at = Some("14:02:11.123".to_owned());
    let status = Status { drawn_at, ..well(2, 3) };
    assert!(
        text(&status, Terminal::PLAIN, true).starts_with("shop: 2 -> 3 shards, 14:02:11 UTC\n")
    );
}
