//! One way to talk to a MariaDB server: connect, learn what its tables are, carry values exactly.

pub mod applying;
pub mod audit;
pub mod catalog;
mod column_type;
pub mod connect;
pub mod control;
pub mod desk;
pub mod error;
pub mod few;
pub mod grants;
mod literal;
mod order;
pub mod pace;
pub mod presence;
pub mod program;
pub mod refused;
pub mod seats;
pub mod server;
pub mod session;
mod socket;
mod tls;
pub mod value;
pub mod waiting;
pub mod whole_log;

pub use catalog::CatalogError;
pub use connect::{Session, connect};
pub use desk::Desk;
pub use error::{Class, ServerError};
pub use few::Few;
pub use grants::Grants;
pub use mysql_async::{Conn, Value};
pub use pace::Pace;
pub use seats::{Seat, Seats};
pub use server::ServerFacts;
pub use socket::ServerSocket;
pub use waiting::Waits;
