//! `src/wire.rs` is what prost makes of `src/change.proto`; no protoc is needed to build.

use std::path::Path;

fn generate() -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = here.join("src");
    let set = protox::compile(["change.proto"], [&source]).expect("change.proto compiles");
    let out = std::env::temp_dir().join(format!("modshift-wire-{}", std::process::id()));
    std::fs::create_dir_all(&out).expect("a temporary folder");
    prost_build::Config::new().out_dir(&out).compile_fds(set).expect("prost generates");
    let text = std::fs::read_to_string(out.join("modshift.v1.rs")).expect("generated file");
    std::fs::remove_dir_all(&out).expect("temporary folder goes");
    text
}

/// With `MODSHIFT_REGENERATE=1` the committed file is written anew instead of compared.
#[test]
fn committed_wire_types_are_those_of_the_proto_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire.rs");
    let generated = generate();
    if std::env::var_os("MODSHIFT_REGENERATE").is_some() {
        std::fs::write(&path, &generated).expect("wire.rs is written");
    }
    let committed = std::fs::read_to_string(&path).expect("wire.rs");
    assert_eq!(committed, generated, "run with MODSHIFT_REGENERATE=1 after changing change.proto");
}
