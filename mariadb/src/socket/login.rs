//! The packets of a login: what the server offers, what to answer. Pure.
//!
//! Accounts log in by `mysql_native_password` or `ed25519`; the server says which when it knows
//! the account, and what was guessed before is then answered anew
//! (<https://mariadb.com/kb/en/connection/>).

use modshift_proto::plan::Endpoint;
use mysql_async::consts::CapabilityFlags;
use mysql_common::io::ParseBuf;
use mysql_common::packets::{
    AuthPlugin, AuthSwitchRequest, HandshakePacket, HandshakeResponse, SslRequest,
};
use mysql_common::proto::MySerialize;

use crate::connect::password;

/// The largest payload either side may send.
const PACKET_BYTES_MAX: u32 = 1 << 30;
const ED25519_NONCE: usize = 32;
/// utf8mb4_general_ci: user and schema names are UTF-8 in the plan.
const UTF8MB4: u8 = 45;

/// What a server says first.
pub(super) struct Greeting {
    capabilities: CapabilityFlags,
    nonce: Vec<u8>,
}

impl Greeting {
    /// An error is no greeting: its text for the operator.
    pub fn parse(payload: &[u8]) -> Result<Greeting, String> {
        let packet: HandshakePacket<'_> =
            ParseBuf(payload).parse(()).map_err(|_| "its greeting is no handshake".to_owned())?;
        let mut nonce = packet.nonce();
        // Twenty bytes, and the zero that ends them.
        nonce.truncate(20);
        let capabilities = packet.capabilities();
        let needed = CapabilityFlags::CLIENT_PROTOCOL_41
            | CapabilityFlags::CLIENT_SECURE_CONNECTION
            | CapabilityFlags::CLIENT_PLUGIN_AUTH;
        if !capabilities.contains(needed) || nonce.len() != 20 {
            return Err("it speaks a protocol from before authentication plugins".to_owned());
        }
        Ok(Greeting { capabilities, nonce })
    }

    pub fn has_tls(&self) -> bool {
        self.capabilities.contains(CapabilityFlags::CLIENT_SSL)
    }

    fn ours(&self, tls: bool) -> CapabilityFlags {
        let mut ours = CapabilityFlags::CLIENT_PROTOCOL_41
            | CapabilityFlags::CLIENT_LONG_PASSWORD
            | CapabilityFlags::CLIENT_LONG_FLAG
            | CapabilityFlags::CLIENT_TRANSACTIONS
            | CapabilityFlags::CLIENT_SECURE_CONNECTION
            | CapabilityFlags::CLIENT_PLUGIN_AUTH
            | CapabilityFlags::CLIENT_CONNECT_WITH_DB;
        ours.set(CapabilityFlags::CLIENT_SSL, tls);
        ours
    }

    /// Sent in clear; everything after it is encrypted.
    pub fn ask_for_tls(&self) -> Vec<u8> {
        bytes(&SslRequest::new(self.ours(true), PACKET_BYTES_MAX, UTF8MB4))
    }

    /// The login proper, by the method that most accounts have.
    pub fn answer(&self, endpoint: &Endpoint) -> Vec<u8> {
        let method = AuthPlugin::MysqlNativePassword;
        let password = password(endpoint);
        let proof = method.gen_data(Some(&password), &self.nonce);
        let tls = endpoint.tls != modshift_proto::plan::TlsMode::Off;
        bytes(&HandshakeResponse::new(
            proof.as_deref(),
            // Any that knows utf8mb4.
            (10, 5, 0),
            Some(endpoint.user.as_bytes()),
            Some(endpoint.schema.as_bytes()),
            Some(method),
            self.ours(tls),
            None,
            PACKET_BYTES_MAX,
        ))
    }
}

/// The server wants another method: its answer, or what is wrong with it.
pub(super) fn switch(payload: &[u8], endpoint: &Endpoint) -> Result<Vec<u8>, String> {
    let asked: AuthSwitchRequest<'_> =
        ParseBuf(payload).parse(()).map_err(|_| "its answer to the login is unknown".to_owned())?;
    let method = asked.auth_plugin();
    match method {
        AuthPlugin::MysqlNativePassword | AuthPlugin::Ed25519 => {}
        other => {
            let name = String::from_utf8_lossy(other.as_bytes()).into_owned();
            return Err(format!(
                "the account logs in by {name}: use mysql_native_password or ed25519"
            ));
        }
    }
    let password = password(endpoint);
    let proof = method.gen_data(Some(&password), nonce(payload, &asked));
    Ok(proof.map(|proof| bytes(&proof)).unwrap_or_default())
}

/// What is to be signed. `plugin_data` leaves out a zero byte at the end, which after that of
/// mysql_native_password is an end mark, and after that of ed25519 one byte in 256 of the nonce itself.
fn nonce<'a>(payload: &'a [u8], asked: &'a AuthSwitchRequest<'_>) -> &'a [u8] {
    let whole = payload.len().checked_sub(ED25519_NONCE).and_then(|at| payload.get(at..));
    match (asked.auth_plugin(), whole) {
        (AuthPlugin::Ed25519, Some(whole)) => whole,
        _ => asked.plugin_data(),
    }
}

fn bytes(packet: &impl MySerialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_greeting_is_told_and_never_trusted() {
        assert!(Greeting::parse(b"HTTP/1.1 400 Bad Request").is_err());
        assert!(Greeting::parse(&[]).is_err());
        for len in 0..80 {
            let _ = Greeting::parse(&vec![10; len]);
        }
    }
}
