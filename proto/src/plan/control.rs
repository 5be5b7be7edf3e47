//! `[control]`: who may pause and slow down a running daemon, and how the way to it is protected.

use super::endpoint::read_secret_file;
use super::render::Rendered;
use super::section::{Item, Section};
use super::{Control, Secret, Tls};

/// So short a token is guessed; 32 hexadecimal digits are none too many.
const TOKEN_MIN: usize = 16;
const TOKEN_MAX: usize = 1024;

pub(super) fn read(root: &Section<'_>) -> Control {
    let section = root.section("control");
    let token = section.get("token");
    let token_file = section.get("token_file");
    if let (Some(_), Some(file)) = (&token, &token_file) {
        file.fault("token is given too, expected one of the two");
    }
    let token = match (token, token_file) {
        (Some(item), _) => item.secret().and_then(|text| checked(&item, text)),
        (None, Some(item)) => {
            read_secret_file(&item).and_then(|secret| checked(&item, secret.expose().to_owned()))
        }
        (None, None) => None,
    };
    let file = |key: &'static str| section.get(key).and_then(|item| item.file());
    let (cert, key) = (file("tls_cert"), file("tls_key"));
    let tls = match (cert, key) {
        (Some(cert), Some(key)) => Some(Tls { cert, key }),
        (Some(_), None) => {
            section.missing("tls_key", "the PEM file of tls_cert's key");
            None
        }
        (None, Some(_)) => {
            section.missing("tls_cert", "the PEM file of the daemons' certificate");
            None
        }
        (None, None) => None,
    };
    let control = Control { token, tls, tls_ca: file("tls_ca") };
    section.finish();
    control
}

/// What goes into a header as it is, and is worth guessing.
fn checked(item: &Item<'_>, text: String) -> Option<Secret> {
    let fits =
        (TOKEN_MIN..=TOKEN_MAX).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic());
    if !fits {
        item.fault(format!(
            "expected {TOKEN_MIN} to {TOKEN_MAX} printable ASCII characters without spaces, such \
             as the answer of `openssl rand -hex 32`"
        ));
        return None;
    }
    Some(Secret::new(text))
}

pub(super) fn render(control: &Control, out: &mut Rendered) {
    out.head("[control]");
    if control.token.is_some() {
        // Not as a value: a plan made from this one would have a token that anyone can read.
        out.comment("token is set");
    }
    if let Some(tls) = &control.tls {
        out.text("tls_cert", &tls.cert.to_string_lossy());
        out.text("tls_key", &tls.key.to_string_lossy());
    }
    if let Some(file) = &control.tls_ca {
        out.text("tls_ca", &file.to_string_lossy());
    }
}
