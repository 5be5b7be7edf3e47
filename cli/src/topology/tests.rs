//! What the files are, for a pair that is doubled.

use super::*;

fn plan(extra: &str) -> Plan {
    let text = format!(
        r#"
name = "shop"
scheme = "promote"
modulus = {{ old = 1, new = 2 }}
[defaults]
user = "modshift"
password = "p"
tls = "off"
[topology]
replication_password = "it's # \\ secret"
watch_password = "w"
advert = "200ms"
{extra}
[[old]]
host = "10.0.0.1"
schema = "shop"
[old.peers]
servers = ["10.0.0.1:3306", "10.0.0.2:3306"]
server_ids = [11, 12]
vip = "10.0.0.100/24"
interface = "eth0"
router_id = 51
[[new]]
application_host = "10.0.0.100"
[new.peers]
servers = ["10.0.0.1:3306", "10.0.0.3:3306"]
server_ids = [11, 13]
vip = "10.0.0.100/24"
interface = "eth0"
router_id = 51
[[new]]
application_host = "10.0.0.101"
[new.peers]
servers = ["10.0.0.2:3306", "10.0.0.4:3306"]
server_ids = [12, 14]
vip = "10.0.0.101/24"
interface = "eth0"
router_id = 52
[[table]]
name = "t"
key = "uid"
rule = "floor_mod"
"#
    );
    Plan::parse(&text, &|_| None).unwrap()
}

fn text_of<'a>(files: &'a [File], path: &str) -> &'a str {
    &files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("no {path}")).text
}

#[test]
fn every_server_has_its_files_at_each_stage() {
    let files = files(&plan("")).unwrap();
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    for server in [
        "before/10.0.0.1-3306",
        "before/10.0.0.2-3306",
        "after/10.0.0.1-3306",
        "after/10.0.0.2-3306",
        "after/10.0.0.3-3306",
        "after/10.0.0.4-3306",
    ] {
        for name in [
            "my.cnf",
            "accounts.sql",
            "replication.sql",
            "watch.cnf",
            "check.sh",
            "notify.sh",
            "keepalived.conf",
        ] {
            assert!(paths.contains(&format!("{server}/{name}").as_str()), "{server}/{name}");
        }
    }
    // The new peers are filled from those that move, never the other way about.
    for (server, seeded) in [("1", false), ("2", false), ("3", true), ("4", true)] {
        let path = format!("after/10.0.0.{server}-3306/seed-from-backup.sh");
        assert_eq!(paths.contains(&path.as_str()), seeded, "{path}");
    }
    // Of a pair as it is either may be the one that lost its disk.
    for server in ["1", "2"] {
        let path = format!("before/10.0.0.{server}-3306/seed-from-backup.sh");
        assert!(paths.contains(&path.as_str()), "{path}");
    }
    assert!(files.iter().all(|file| !file.text.contains('@') || !file.text.contains("_ID@")));
    assert_eq!(files, super::files(&plan("")).unwrap(), "the same plan gives the same files");
}

#[test]
fn generated_keys_are_those_of_the_shard_and_of_one_master_alone() {
    let files = files(&plan("")).unwrap();
    for (path, step, offset) in [
        ("before/10.0.0.1-3306/my.cnf", 2, 1),
        ("before/10.0.0.2-3306/my.cnf", 2, 2),
        ("after/10.0.0.1-3306/my.cnf", 4, 2),
        ("after/10.0.0.3-3306/my.cnf", 4, 4),
        ("after/10.0.0.2-3306/my.cnf", 4, 1),
        ("after/10.0.0.4-3306/my.cnf", 4, 3),
    ] {
        let text = text_of(&files, path);
        assert!(text.contains(&format!("auto_increment_increment        = {step}\n")), "{path}");
        assert!(text.contains(&format!("auto_increment_offset           = {offset}\n")), "{path}");
    }
    let counters = text_of(&files, "during/10.0.0.2-3306/counters.sql");
    assert!(counters.contains("auto_increment_increment = 4, GLOBAL auto_increment_offset = 1;"));
    let during = text_of(&files, "during/README");
    assert!(during.contains(
        "Stop keepalived on 10.0.0.2:3306: the addresses stay where 10.0.0.1:3306 serves"
    ));
    // An address that applications are sent to is there before they are.
    assert!(
        during.contains("Before it, on 10.0.0.2:3306: ip address add 10.0.0.101/24 dev eth0."),
        "{during}"
    );
}

#[test]
fn passwords_stand_in_files_of_one_reader_and_are_quoted() {
    let files = files(&plan("")).unwrap();
    for file in &files {
        let secret = file.text.contains("secret") || file.text.contains("\"w\"");
        assert_eq!(secret, file.mode == SECRET, "{}", file.path);
    }
    let replication = text_of(&files, "before/10.0.0.2-3306/replication.sql");
    assert!(replication.contains("MASTER_HOST = '10.0.0.1', MASTER_PORT = 3306"), "{replication}");
    assert!(replication.contains(r"MASTER_PASSWORD = 'it''s # \\ secret'"), "{replication}");
    assert!(replication.contains("MASTER_USE_GTID = slave_pos"), "{replication}");
}

#[test]
fn a_plan_that_cannot_be_written_out_is_refused_by_name() {
    let without = |cut: &dyn Fn(&mut Plan)| {
        let mut plan = plan("");
        cut(&mut plan);
        files(&plan).unwrap_err()
    };
    assert!(without(&|plan| plan.topology = None).contains("no [topology]"));
    let none = |plan: &mut Plan| {
        plan.old.iter_mut().chain(&mut plan.new).for_each(|shard| shard.peers = None);
    };
    assert!(without(&none).contains("no shard of the plan is a pair"));
    let twice = |plan: &mut Plan| {
        let mut peers = plan.new[0].peers.clone().unwrap();
        peers.servers[1] = plan.new[1].peers.as_ref().unwrap().servers[1].clone();
        plan.new[0].peers = Some(peers);
    };
    assert!(without(&twice).contains("shares a server with new shard 0 but is another pair"));
}

#[test]
fn nothing_that_empties_a_server_is_written_for_one_that_comes_with_its_rows() {
    let mut plan = plan("");
    plan.new[0].peers.as_mut().unwrap().servers.reverse();
    let files = files(&plan).unwrap();
    for (server, seeded) in [("1", false), ("3", true)] {
        let path = format!("after/10.0.0.{server}-3306/seed-from-backup.sh");
        assert_eq!(files.iter().any(|file| file.path == path), seeded, "{path}");
    }
}

#[test]
fn servers_of_one_host_do_not_share_a_file() {
    let mut crowded = plan("");
    crowded.new[1].peers.as_mut().unwrap().servers[1].at.host = "10.0.0.3".to_owned();
    crowded.new[1].peers.as_mut().unwrap().servers[1].at.port = 3307;
    let files = files(&crowded).unwrap();
    for (server, dir) in [
        ("10.0.0.3-3306", "/etc/modshift/10.0.0.3-3306"),
        ("10.0.0.3-3307", "/etc/modshift/10.0.0.3-3307"),
        ("10.0.0.1-3306", "/etc/modshift"),
    ] {
        let text = text_of(&files, &format!("after/{server}/notify.sh"));
        assert!(text.contains(&format!("DIR='{dir}'\n")), "{server}");
        let text = text_of(&files, &format!("after/{server}/keepalived.conf"));
        assert!(text.contains(&format!("script \"{dir}/check.sh\"")), "{server}");
    }
    assert!(text_of(&files, "README").contains("Several servers of pairs are on 10.0.0.3:"));
}

#[test]
fn what_somebody_edited_is_not_replaced_unasked() {
    let dir = std::env::temp_dir().join(format!("modshift-topology-{}", std::process::id()));
    let file =
        |text: &str| File { path: "a/b.sql".to_owned(), mode: SECRET, text: text.to_owned() };
    let compare = |text: &str| Folder::open(&dir).unwrap().compare(vec![file(text)]).unwrap();
    let write = |text: &str| Folder::open(&dir).unwrap().write(&compare(text)).unwrap();
    assert_eq!(compare("one")[0].1, State::New);
    write("one");
    assert_eq!(compare("one")[0].1, State::Same);
    assert_eq!(compare("two")[0].1, State::Changed);
    write("two");
    let path = dir.join("a/b.sql");
    std::fs::write(&path, "mine").unwrap();
    assert_eq!(compare("two")[0].1, State::Edited);
    write("three");
    assert_eq!(std::fs::read_to_string(dir.join("a/b.sql.edited")).unwrap(), "mine");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "three");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, SECRET);
    assert_eq!(Folder::open(&dir).unwrap().left(&[]), ["a/b.sql"]);
    std::fs::remove_dir_all(&dir).unwrap();
}
