//! Single sections: `[throttle]`, `[control]` and `[cutover]`.

use std::path::Path;
use std::time::Duration;

use modshift_proto::plan::default;

use crate::{changed, check_change, parse};

#[test]
fn a_limit_of_the_throttle_may_be_none() {
    let throttle = |text: &str| {
        parse(&changed("[check]", &format!("[throttle]\n{text}\n[check]"))).unwrap().throttle
    };
    let defaults = throttle("");
    assert_eq!(defaults.threads_running_max, Some(default::THREADS_RUNNING_MAX));
    assert_eq!(defaults.replica_lag_max, Some(default::REPLICA_LAG_MAX));
    assert_eq!(defaults.commit_latency_max, Some(default::COMMIT_LATENCY_MAX));
    let off = throttle(
        "threads_running_max = \"none\"\nreplica_lag_max = \"none\"\ncommit_latency_max = \"none\"",
    );
    assert_eq!(
        (off.threads_running_max, off.replica_lag_max, off.commit_latency_max),
        (None, None, None)
    );
    assert_eq!(throttle("threads_running_max = 5").threads_running_max, Some(5));
    check_change(
        "[check]",
        "[throttle]\nreplica_lag_max = \"none at all\"\n[check]",
        "throttle.replica_lag_max: expected a duration such as \"200ms\" or \"1h\", 1s to 1h, \
         found \"none at all\"",
    );
}

#[test]
fn the_control_token_is_long_and_the_certificate_has_a_key() {
    let control = |text: &str| parse(&changed("[check]", &format!("[control]\n{text}\n[check]")));
    assert_eq!(control("").unwrap().control, modshift_proto::plan::Control::default());
    let good = control("token = \"0123456789abcdef\"\ntls_cert = \"c.pem\"\ntls_key = \"k.pem\"");
    let good = good.unwrap().control;
    assert_eq!(good.token.unwrap().expose(), "0123456789abcdef");
    assert_eq!(good.tls.unwrap().key, Path::new("k.pem"));
    let long = "expected 16 to 1024 printable ASCII characters without spaces, such as the answer of \
                `openssl rand -hex 32`";
    for (text, expected) in [
        ("token = \"s3cret\"", format!("control.token: {long}")),
        ("token = \"0123456789 abcdef\"", format!("control.token: {long}")),
        ("token_file = \"gone\"", "control.token_file: gone cannot be read: ".to_owned()),
        ("tls_cert = \"c\"", "control.tls_key: missing, expected".to_owned()),
        ("tls_key = \"k\"", "control.tls_cert: missing, expected".to_owned()),
        (
            "token = \"0123456789abcdef\"\ntoken_file = \"x\"",
            "control.token_file: token is given too".to_owned(),
        ),
    ] {
        let found = control(text).expect_err(text).to_string();
        assert!(found.contains(&expected) && !found.contains("s3cret"), "{found}");
    }
}

#[test]
fn the_accounts_of_a_cutover_are_those_of_create_user() {
    let plan = parse(&changed(
        "[gate]\n",
        "[cutover]\naccounts = [\"app@10.0.%\", \"a@b@%\"]\nnew_accounts = []\nbudget = \"800ms\"\n\
         user = \"root\"\npassword = \"${MODSHIFT_PASSWORD}\"\nauto_increment = \"keep\"\n[gate]\n",
    ))
    .unwrap();
    let names: Vec<_> =
        plan.cutover.old_accounts.iter().map(|a| (a.user.as_str(), a.host.as_str())).collect();
    assert_eq!(names, [("app", "10.0.%"), ("a@b", "%")]);
    assert_eq!(plan.cutover.new_accounts, []);
    assert_eq!(plan.cutover.budget, Duration::from_millis(800));
    assert!(!plan.render_redacted().contains("s3cret"));
    let back = parse(&plan.render_redacted()).unwrap();
    assert_eq!(back.cutover.old_accounts, plan.cutover.old_accounts);
    assert_eq!(back.cutover.auto_increment, plan.cutover.auto_increment);

    let check = |line: &str, expected: &str| {
        check_change("[gate]\n", &format!("[cutover]\n{line}\n[gate]\n"), expected);
    };
    check(
        "accounts = [\"app\"]",
        "cutover.accounts[0]: expected an account such as \"app@%\", found \"app\"",
    );
    check("user = \"root\"", "cutover: expected both user and password, or neither");
    check(
        "accounts = [\"modshift@10.%\"]",
        "cutover: modshift@10.% has the user name that modshift itself logs in with: the fence ends \
         every session of that name; give modshift a user of its own",
    );
    check(
        "old_accounts = [\"a@%\"]\nfence = \"accounts\"",
        "cutover.fence: expected accounts of both sides: they are all that it locks",
    );
    check("account = []", "cutover.account: unknown key, did you mean accounts?");
}
