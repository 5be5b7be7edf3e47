//! What is read, and what stands for what is not said.

use std::time::Duration;

use modshift_proto::OldShard;
use modshift_proto::plan::{Compression, Direction, Log, Placement, Plan, TlsMode, default};
use modshift_proto::rule::{Charset, ShardRule};

use crate::{changed, check_change, modulus, orders, parse};

#[test]
fn a_plan_is_read_with_its_defaults() {
    let plan = parse(&orders()).unwrap();
    assert_eq!(plan.name, "orders");
    assert_eq!((plan.old_modulus, plan.new_modulus), (modulus(3), modulus(4)));
    assert_eq!((plan.old.len(), plan.new.len()), (3, 4));
    let shard = &plan.new[3];
    assert_eq!((shard.host.as_str(), shard.port), ("127.0.0.1", 3324));
    assert_eq!((shard.schema.as_str(), shard.user.as_str()), ("trade_3", "modshift"));
    assert_eq!(shard.password.expose(), "s3cret \"quoted\"");
    assert_eq!(shard.tls, TlsMode::Off);
    let placements: Vec<_> = plan.tables.iter().map(|table| table.placement.clone()).collect();
    assert_eq!(
        placements,
        [
            Placement::Sharded { key: "accountNo".to_owned(), rule: ShardRule::FloorMod },
            Placement::Sharded {
                key: "login".to_owned(),
                rule: ShardRule::Crc32 { charset: Charset::Utf8mb4 }
            },
            Placement::Broadcast { source: OldShard(0) },
        ]
    );
    let Log::Kafka(kafka) = &plan.log else { panic!("{:?}", plan.log) };
    assert_eq!(kafka.topic, "modshift.orders.changes");
    assert_eq!((kafka.replication, kafka.min_insync), (3, 2));
    assert_eq!(kafka.retention, Duration::from_secs(7 * 86_400));
    assert_eq!(kafka.message_bytes_max, 64 << 20);
    assert_eq!(kafka.buffer_bytes, 8 << 20);
    assert_eq!(kafka.compression, Compression::Lz4);
    assert_eq!(plan.snapshot.chunk_time, Duration::from_millis(200));
    assert_eq!(plan.apply.batch_rows, 2000);
    assert_eq!(plan.gate.verify_age, Some(Duration::from_secs(3600)));
    assert_eq!(plan.back.verify_age, None);
    assert_eq!(plan.check.ignore, ["tmp_*"]);
    assert_eq!(plan.http.run, None);
}

#[test]
fn the_direct_log_needs_nothing_else() {
    let kafka = "kind = \"kafka\"\nbrokers = \"127.0.0.1:9092\"";
    let plan = parse(&changed(kafka, "kind = \"direct\"")).unwrap();
    assert_eq!(plan.log, Log::Direct { buffer_bytes: default::DIRECT_BUFFER_BYTES });
    let with_brokers = "kind = \"direct\"\nbrokers = \"127.0.0.1:9092\"";
    check_change(kafka, with_brokers, "log.brokers: only a log of kind kafka has it");
}

#[test]
fn a_plan_file_names_files_beside_it() {
    let folder = std::env::temp_dir().join(format!("modshift-plan-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("password"), "from a file \n").unwrap();
    let text = changed("password = \"${MODSHIFT_PASSWORD}\"", "password_file = \"password\"");
    std::fs::write(folder.join("plan.toml"), text).unwrap();
    let plan = Plan::load(folder.join("plan.toml")).unwrap();
    assert_eq!(plan.old[0].password.expose(), "from a file ");
    std::fs::write(folder.join("plan.toml"), "x = 1\n").unwrap();
    let shown = Plan::load(folder.join("plan.toml")).unwrap_err().to_string();
    let file = folder.join("plan.toml");
    assert!(shown.starts_with(&format!("{}:1:1: ", file.display())), "{shown}");
    std::fs::remove_dir_all(&folder).unwrap();
    let gone = Plan::load(&file).unwrap_err().to_string();
    assert!(gone.contains("plan.toml: the plan cannot be read: No such file"), "{gone}");
}

#[test]
fn the_way_back_is_the_plan_turned_around() {
    let plan = parse(&changed("broadcast = 0", "broadcast = 2")).unwrap();
    let back = plan.reversed();
    assert_eq!((plan.direction(), back.direction()), (Direction::Forward, Direction::Back));
    assert_eq!(back.name, "orders-back");
    assert_eq!((back.old_modulus, back.new_modulus), (modulus(4), modulus(3)));
    assert_eq!((&back.old, &back.new), (&plan.new, &plan.old));
    let Log::Kafka(log) = &back.log else { panic!("{:?}", back.log) };
    assert_eq!(log.topic, "modshift.orders-back.changes");
    assert_eq!(back.tables[2].placement, Placement::Broadcast { source: OldShard(0) });
    assert_eq!(back.tables[..2], plan.tables[..2]);
    assert_eq!(back.apply, plan.apply);
    // Whatever could not be turned is there again.
    assert_eq!(back.reversed(), plan);
}

#[test]
fn no_plan_is_called_like_a_way_back() {
    let expected = "name: expected no name that ends in -back: it is that of a way back";
    check_change("name = \"orders\"", "name = \"orders-back\"", expected);
}

#[test]
fn the_way_back_is_open_unless_the_plan_closes_it() {
    assert!(parse(&orders()).unwrap().back.enabled);
    let closed = parse(&changed("[gate]\n", "[back]\nenabled = false\n[gate]\n")).unwrap();
    assert!(!closed.back.enabled);
    let proven = changed("[gate]\n", "[back]\nverify_age = \"2h\"\n[gate]\nverify_age = \"1h\"\n");
    let proven = parse(&proven).unwrap();
    let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
    assert_eq!((proven.gate.verify_age, proven.back.verify_age), (hours(1), hours(2)));
    // What the way back asks for is its own.
    assert_eq!(proven.reversed().gate.verify_age, hours(2));
    // To do without one has to be said in words.
    let given_up = parse(&changed("[gate]\n", "[gate]\nverify_age = \"none\"\n")).unwrap();
    assert_eq!(given_up.gate.verify_age, None);
    assert!(given_up.render_redacted().contains("\nverify_age = \"none\"\n"));
    for wrong in ["\"\"", "\"never\"", "0", "false"] {
        let text = changed("[gate]\n", &format!("[gate]\nverify_age = {wrong}\n"));
        let errors = parse(&text).expect_err(wrong);
        assert_eq!(errors.faults.len(), 1, "{errors}");
        assert_eq!(errors.faults[0].path, "gate.verify_age");
        assert!(errors.faults[0].message.starts_with("expected a duration such as"), "{errors}");
    }
    check_change(
        "[gate]\n",
        "[back]\nenabled = false\nverify_age = \"2h\"\n[gate]\n",
        "back.verify_age: expected none where enabled = false: there is no rollback",
    );
}
