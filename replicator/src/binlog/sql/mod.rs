//! What a statement in the binlog does, and to what. Pure: bytes in.

mod lex;
mod savepoint;

pub use lex::{Charset, Lexer, Lexis, Token};
pub use savepoint::{Savepoint, savepoint};
