//! What "the same server" means, as far as a plan can tell.
//!
//! | the question | the answer |
//! |---|---|
//! | may what was opened for one shard be used for another? | they have the same [`Login`] |
//! | does work on one shard take room from the other? | they have the same [`Address`] |
//! | is it the same server? | only a server can say |
//!
//! The plan may lead to one server by several names, and a name may lead to another server than it did
//! before: a virtual address moves, and so does a record of DNS. So whoever counts by address counts
//! a server with two names twice, which `modshift check` finds by what the servers say of themselves;
//! and whoever keeps a connection asks where it has come out, or opens it anew now and then.

use std::net::IpAddr;
use std::path::PathBuf;

use super::{Endpoint, HostPort, Secret, TlsMode};

/// Where a server is reached, for bounds on what is asked of it: what is taken for the same by mistake
/// only waits for its turn. The names of this very host are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

/// How a server is reached, to the letter: one name, one account, one kind of encryption. A certificate
/// is issued for a name, so two names of this host are two here.
#[derive(Clone, Debug, PartialEq)]
pub struct Login {
    host: String,
    port: u16,
    user: String,
    password: Secret,
    tls: TlsMode,
    tls_ca: Option<PathBuf>,
}

impl Address {
    fn new(host: &str, port: u16) -> Address {
        let host = host.to_ascii_lowercase();
        let here = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        Address { host: if here { "localhost".to_owned() } else { host }, port }
    }
}

impl Endpoint {
    pub fn address(&self) -> Address {
        Address::new(&self.host, self.port)
    }

    pub fn login(&self) -> Login {
        Login {
            host: self.host.to_ascii_lowercase(),
            port: self.port,
            user: self.user.clone(),
            password: self.password.clone(),
            tls: self.tls,
            tls_ca: self.tls_ca.clone(),
        }
    }
}

impl HostPort {
    pub fn address(&self) -> Address {
        Address::new(&self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: &str, port: u16) -> Endpoint {
        Endpoint { host: host.to_owned(), port, ..Endpoint::sample() }
    }

    /// Whether the two have one address, and one login.
    fn same(one: (&str, u16), other: (&str, u16)) -> (bool, bool) {
        let (one, other) = (endpoint(one.0, one.1), endpoint(other.0, other.1));
        (one.address() == other.address(), one.login() == other.login())
    }

    #[test]
    fn names_are_compared_as_names_and_those_of_this_host_share_its_room() {
        assert_eq!(same(("db1", 3306), ("DB1", 3306)), (true, true));
        assert_eq!(same(("db1", 3306), ("db1", 3307)), (false, false), "two servers of one host");
        for host in ["127.0.0.1", "127.0.0.2", "::1", "LocalHost"] {
            assert!(same(("localhost", 3306), (host, 3306)).0, "{host}");
            assert!(!same(("localhost", 3306), (host, 3307)).0, "{host}");
        }
        // A certificate for one of them may not be good for the other.
        assert_eq!(same(("localhost", 3306), ("127.0.0.1", 3306)), (true, false));
        // Nobody can tell by the names that these are one, or that they always will be.
        assert_eq!(same(("db1", 3306), ("db1.example", 3306)), (false, false));
        assert_eq!(same(("10.0.0.1", 3306), ("10.0.0.2", 3306)), (false, false));
    }

    #[test]
    fn a_connection_is_shared_under_one_account_whatever_the_schema() {
        let one = endpoint("db1", 3306);
        let other = Endpoint { schema: "t".to_owned(), replica_server_id: 2, ..one.clone() };
        assert_eq!((one.login(), one.address()), (other.login(), other.address()));
        for other in [
            Endpoint { user: "v".to_owned(), ..one.clone() },
            Endpoint { password: Secret::new("q".to_owned()), ..one.clone() },
            Endpoint { tls: TlsMode::Required, ..one.clone() },
            Endpoint { tls_ca: Some("ca.pem".into()), ..one.clone() },
        ] {
            assert_ne!(one.login(), other.login());
            assert_eq!(one.address(), other.address(), "its room is the server's");
        }
        let replica = HostPort { host: "DB1".to_owned(), port: 3306 };
        assert_eq!(replica.address(), one.address());
        assert_eq!(endpoint("db2", 1).on(&replica).login(), one.login());
    }
}
