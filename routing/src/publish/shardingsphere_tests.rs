//! The YAML parsed back, the expressions evaluated, the DistSQL taken apart.

use std::process::Command;
use std::time::Duration;

use modshift_proto::plan::{Jdbc, Secret};
use yaml_rust2::{Yaml, YamlLoader};

use super::*;
use crate::document::Side;
use crate::publish::test_documents::{Folder, document};

const PASSWORD: &str = "it's: #1 \"secret\" \\";

fn target(crc32_class: Option<&str>, folder: &Folder) -> ShardingSphereTarget {
    ShardingSphereTarget {
        yaml: Some(folder.join("sharding.yaml")),
        distsql: None,
        units: StorageUnits {
            user: "shop".to_owned(),
            password: Secret::new(PASSWORD.to_owned()),
            jdbc: Jdbc::MariaDb,
            url_parameters: None,
            crc32_class: crc32_class.map(str::to_owned),
        },
    }
}

fn shop(version: u64, side: Side) -> Document {
    Document { plan: "my-shop".to_owned(), ..document(version, side) }
}

fn parsed(text: &str) -> Yaml {
    let mut all = YamlLoader::load_from_str(text).unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// As Groovy computes it, whose remainder is SQLite's: that of C.
fn evaluate(expression: &str, column: &str, key: i64) -> String {
    let sum = expression.replace(column, &format!("({key})"));
    let sum = match sum.strip_suffix(".abs()") {
        Some(inner) => format!("abs{inner}"),
        None => sum,
    };
    let output =
        Command::new("sqlite3").args([":memory:", &format!("SELECT {sum}")]).output().unwrap();
    assert!(output.status.success(), "{sum}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn the_yaml_reads_back_and_places_keys_where_the_document_does() {
    let folder = Folder::create();
    let document = shop(7, Side::New);
    let text = yaml(&target(None, &folder).units, PASSWORD, &document).unwrap();
    let yaml = parsed(&text);
    let source = &yaml["dataSources"]["my_shop_new_2"];
    assert_eq!(source["url"].as_str(), Some("jdbc:mariadb://db-new-2.internal:3308/shop_2"));
    assert_eq!(source["dataSourceClassName"].as_str(), Some(POOL));
    assert_eq!(source["username"].as_str(), Some("shop"));
    assert_eq!(source["password"].as_str(), Some(PASSWORD));
    assert_eq!(yaml["dataSources"].as_hash().unwrap().len(), 4);
    let mut by_mysql = target(None, &folder).units;
    by_mysql.jdbc = Jdbc::MySql;
    by_mysql.url_parameters = Some("connectTimeout=2000&tcpKeepAlive=true".to_owned());
    let mut on_six = document.clone();
    on_six.shards[2].host = "fd00::2".to_owned();
    let url = parsed(&self::yaml(&by_mysql, PASSWORD, &on_six).unwrap());
    assert_eq!(
        url["dataSources"]["my_shop_new_2"]["url"].as_str(),
        Some("jdbc:mysql://[fd00::2]:3308/shop_2?connectTimeout=2000&tcpKeepAlive=true")
    );
    let (sharding, broadcast) = (&yaml["rules"][0], &yaml["rules"][1]);
    assert!(text.contains("\n- !SHARDING\n") && text.contains("\n- !BROADCAST\n"));
    assert_eq!(broadcast["tables"][0].as_str(), Some("currency"));
    assert_eq!(sharding["tables"].as_hash().unwrap().len(), 2);

    for (table, column) in [("t_order", "accountNo"), ("t_wallet", "owner")] {
        let rule = &sharding["tables"][table];
        let nodes = format!("my_shop_new_$->{{0..3}}.{table}");
        assert_eq!(rule["actualDataNodes"].as_str(), Some(nodes.as_str()));
        let strategy = &rule["databaseStrategy"]["standard"];
        assert_eq!(strategy["shardingColumn"].as_str(), Some(column));
        let algorithm = strategy["shardingAlgorithmName"].as_str().unwrap();
        let algorithm = &sharding["shardingAlgorithms"][algorithm];
        assert_eq!(algorithm["type"].as_str(), Some("INLINE"));
        let expression = algorithm["props"]["algorithm-expression"].as_str().unwrap();
        let expression = expression.strip_prefix("my_shop_new_$->{").unwrap();
        let expression = expression.strip_suffix('}').unwrap();
        for key in [0, 1, 7, -1, -5, -8, i64::MAX, i64::MIN + 1] {
            let expected = document.route(table, key).unwrap().index.to_string();
            assert_eq!(evaluate(expression, column, key), expected, "{table} {key}");
        }
    }
}

#[test]
fn what_shardingsphere_cannot_do_is_refused_before_anything_is_written() {
    let folder = Folder::create();
    let mut document = shop(7, Side::New);
    let crc32 = TableRule::Crc32 { key: "login".to_owned(), charset: "latin1".to_owned() };
    document.tables.insert("t_user".to_owned(), crc32);
    let unfit = preview(&target(None, &folder), &document).unwrap_err();
    assert!(unfit.to_string().contains("name a class of yours in crc32_class"), "{unfit}");
    let text = preview(&target(Some("a.B"), &folder), &document).unwrap();
    assert!(!text.contains("secret"), "{text}");
    let algorithm = &parsed(&text)["rules"][0]["shardingAlgorithms"]["modshift_new_t_user"];
    assert_eq!(algorithm["type"].as_str(), Some("CLASS_BASED"));
    assert_eq!(algorithm["props"]["algorithmClassName"].as_str(), Some("a.B"));
    assert_eq!(algorithm["props"]["charset"].as_str(), Some("latin1"));

    let mut odd = shop(7, Side::New);
    odd.tables.insert("t order".to_owned(), TableRule::FloorMod { key: "k".to_owned() });
    assert!(matches!(preview(&target(None, &folder), &odd), Err(Failure::Unfit { .. })));
    let mut odd = shop(7, Side::New);
    odd.tables.insert("t".to_owned(), TableRule::FloorMod { key: "k-1".to_owned() });
    assert!(matches!(preview(&target(None, &folder), &odd), Err(Failure::Unfit { .. })));
}

#[test]
fn the_distsql_has_every_unit_and_rule_in_whole_statements() {
    let folder = Folder::create();
    let mut target = target(None, &folder);
    target.distsql = Some(folder.join("sharding.distsql"));
    let quotes = distsql(&target.units, PASSWORD, &shop(7, Side::New)).unwrap_err();
    assert!(quotes.to_string().contains("cannot quote") && !quotes.to_string().contains("secret"));
    let text = distsql(&target.units, "plain", &shop(7, Side::New)).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    assert!(first.starts_with("-- modshift routing {"), "{first}");
    let statements: Vec<&str> = rest.trim_end().split(";\n").collect();
    let starting = |start: &str| statements.iter().filter(|s| s.starts_with(start)).count();
    assert_eq!(starting("REGISTER STORAGE UNIT IF NOT EXISTS my_shop_new_"), 4);
    assert_eq!(starting("CREATE SHARDING TABLE RULE IF NOT EXISTS t_"), 2);
    assert_eq!(starting("ALTER SHARDING TABLE RULE t_"), 2);
    assert_eq!(starting("CREATE BROADCAST TABLE RULE IF NOT EXISTS currency"), 1);
    assert_eq!(statements.len(), 9, "{text}");
    for statement in statements {
        let outside: String = statement.split('"').step_by(2).collect();
        assert_eq!(statement.matches('"').count() % 2, 0, "{statement}");
        assert_eq!(outside.matches('(').count(), outside.matches(')').count(), "{statement}");
    }
    let rule = "ALTER SHARDING TABLE RULE t_order (DATANODES(\"my_shop_new_$->{0..3}.t_order\"), \
                DATABASE_STRATEGY(TYPE=\"standard\", SHARDING_COLUMN=accountNo, \
                SHARDING_ALGORITHM(TYPE(NAME=\"INLINE\", PROPERTIES(\"algorithm-expression\"=\
                \"my_shop_new_$->{((accountNo % 4) + 4) % 4}\")))));";
    assert!(text.contains(rule), "{text}");
}

#[tokio::test]
async fn the_files_hold_their_version() {
    let folder = Folder::create();
    let mut target = target(None, &folder);
    target.units.password = Secret::new("plain".to_owned());
    target.distsql = Some(folder.join("sharding.distsql"));
    let deadline = || Instant::now() + Duration::from_secs(60);
    let (first, second) = (shop(1, Side::Old), shop(2, Side::New));
    assert_eq!(publish(&target, false, &first, deadline()).await.unwrap(), Ack::Stored);
    assert_eq!(publish(&target, false, &second, deadline()).await.unwrap(), Ack::Stored);
    // One of two files is not enough.
    std::fs::remove_file(folder.join("sharding.distsql")).unwrap();
    assert_eq!(publish(&target, false, &second, deadline()).await.unwrap(), Ack::Stored);
    assert_eq!(publish(&target, false, &second, deadline()).await.unwrap(), Ack::Held);
    let older = publish(&target, false, &first, deadline()).await.unwrap_err();
    assert!(matches!(older, Failure::Newer { found: 2, version: 1 }), "{older}");
    assert_eq!(folder.names(), ["sharding.distsql", "sharding.yaml"]);
    assert!(folder.path().is_dir());
}
