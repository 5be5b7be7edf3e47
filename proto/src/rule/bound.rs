//! A rule bound to its column: the Rust form and the SQL form, side by side.

use super::ShardRule;
use super::charset::{Charset, Conversion, crc32};
use crate::row::{RowError, cell_int, cell_uint};
use crate::schema::{Column, DataType};
use crate::shard::Modulus;

/// The rule cannot place every value of the column. Always a matter of plan or schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("shard key {column} is {type_text}, rule {rule} needs {needs}")]
    Type { column: String, type_text: String, rule: &'static str, needs: &'static str },
    #[error("shard key {column} is a generated column, which is never sent")]
    Generated { column: String },
    #[error("shard key {column} has character set {found}, which rule crc32 does not know")]
    UnknownCharset { column: String, found: String },
    #[error("shard key {column} has character set {from}, not all of which can be written in {to}")]
    NotConvertible { column: String, from: &'static str, to: &'static str },
}

impl RuleError {
    /// What the operator does next.
    pub fn hint(&self) -> &'static str {
        match self {
            RuleError::Type { .. } => {
                "floor_mod and abs_mod place integers, crc32 places strings; \
                 name the rule and the column that the application uses"
            }
            RuleError::Generated { .. } => "name the column that the generated one is made from",
            RuleError::UnknownCharset { .. } => {
                "use charset = \"binary\" if the application hashes the bytes as stored, \
                 otherwise convert the column to utf8mb4"
            }
            RuleError::NotConvertible { .. } => {
                "name the character set that the application hashes: the column's own, \
                 utf8mb4, or binary for the bytes as stored"
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Form {
    SignedFloor,
    SignedAbs,
    Unsigned,
    Crc32 { conversion: Conversion, char_column: bool },
}

/// A [`ShardRule`] over a particular column.
///
/// A CHAR column has no trailing spaces in either form: MariaDB stores it without, and under
/// `PAD_CHAR_TO_FULL_LENGTH` alone shows them. An application that hashes the padded value of a
/// CHAR places it elsewhere. VARCHAR and TEXT keep theirs, BINARY(n) always has n bytes.
#[derive(Clone, Debug)]
pub struct BoundRule {
    /// Quoted for SQL.
    column: String,
    nullable: bool,
    form: Form,
}

/// See [`BoundRule::number`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyNumber {
    /// Its remainder is never negative.
    Floor(i64),
    Plain(u64),
}

impl KeyNumber {
    #[inline]
    pub fn place(self, modulus: Modulus) -> u16 {
        let shards = modulus.get();
        // Below `shards`, which is a u16.
        match self {
            KeyNumber::Floor(key) => key.rem_euclid(i64::from(shards)) as u16,
            KeyNumber::Plain(key) => (key % u64::from(shards)) as u16,
        }
    }
}

impl ShardRule {
    /// Checks that every value the column can hold has a shard, the same in Rust and in SQL. NULL, where
    /// it takes that, has none: whoever places rows has to stop at it.
    pub fn bind(&self, column: &Column) -> Result<BoundRule, RuleError> {
        let name = || column.name.clone();
        if column.generated {
            return Err(RuleError::Generated { column: name() });
        }
        let needs = |needs| RuleError::Type {
            column: name(),
            type_text: column.type_text.clone(),
            rule: self.name(),
            needs,
        };
        let form = match (self, column.data) {
            // Of a value that cannot be negative both remainders are the same.
            (ShardRule::FloorMod | ShardRule::AbsMod, DataType::Int { unsigned: true, .. }) => {
                Form::Unsigned
            }
            (ShardRule::FloorMod, DataType::Int { .. }) => Form::SignedFloor,
            (ShardRule::AbsMod, DataType::Int { .. }) => Form::SignedAbs,
            (ShardRule::FloorMod | ShardRule::AbsMod, _) => return Err(needs("an integer")),
            (ShardRule::Crc32 { charset }, data) => {
                let from = match data {
                    DataType::Binary { .. } | DataType::VarBinary | DataType::Blob => {
                        Some(Charset::Binary)
                    }
                    DataType::Char | DataType::VarChar | DataType::Text => {
                        column.charset.as_deref().and_then(Charset::from_name)
                    }
                    _ => return Err(needs("CHAR, VARCHAR, TEXT or their binary kin")),
                };
                // As stored, any character set will do whose trailing spaces are single bytes.
                let as_stored = *charset == Charset::Binary && data != DataType::Char;
                let conversion = match from {
                    None if as_stored => Conversion::Identity,
                    None => {
                        let found = column.charset.clone().unwrap_or_else(|| "none".to_owned());
                        return Err(RuleError::UnknownCharset { column: name(), found });
                    }
                    Some(from) => Conversion::between(from, *charset).ok_or_else(|| {
                        let (from, to) = (from.name(), charset.name());
                        RuleError::NotConvertible { column: name(), from, to }
                    })?,
                };
                Form::Crc32 { conversion, char_column: data == DataType::Char }
            }
        };
        let quoted = format!("`{}`", column.name.replace('`', "``"));
        Ok(BoundRule { column: quoted, nullable: column.nullable, form })
    }
}

impl BoundRule {
    /// The shard under `modulus` of a key in its wire form (see [`crate::row`]). Total and stable
    /// over the column's values; the error means that the cell is not of the column's form.
    pub fn place(&self, cell: &[u8], modulus: Modulus) -> Result<u16, RowError> {
        self.number(cell).map(|number| number.place(modulus))
    }

    /// What of a key decides its shard, whatever the modulus: a key that is placed under two
    /// moduli is read once.
    #[inline]
    pub fn number(&self, cell: &[u8]) -> Result<KeyNumber, RowError> {
        Ok(match self.form {
            Form::SignedFloor => KeyNumber::Floor(cell_int(cell)?),
            Form::SignedAbs => KeyNumber::Plain(cell_int(cell)?.unsigned_abs()),
            Form::Unsigned => KeyNumber::Plain(cell_uint(cell)?),
            Form::Crc32 { conversion, char_column } => {
                let key = if char_column { without_trailing_spaces(cell) } else { cell };
                KeyNumber::Plain(crc32(key, conversion).into())
            }
        })
    }

    /// [`BoundRule::sql`] where the rows may not have been placed yet: `none` for a NULL.
    pub fn sql_or(&self, modulus: Modulus, none: u16) -> String {
        match self.nullable {
            true => format!("IFNULL({}, {none})", self.sql(modulus)),
            false => self.sql(modulus),
        }
    }

    /// An SQL expression over the column with exactly the same value, an integer of
    /// `0..modulus`, under any `sql_mode` and any character set of the session. NULL for NULL.
    pub fn sql(&self, modulus: Modulus) -> String {
        self.sql_over(&self.column, modulus)
    }

    /// The same within a trigger, over one of its rows: `NEW` or `OLD`.
    pub fn sql_of(&self, row: &str, modulus: Modulus) -> String {
        self.sql_over(&self.column_of(row), modulus)
    }

    /// The column within a trigger, quoted.
    pub fn column_of(&self, row: &str) -> String {
        format!("{row}.{}", self.column)
    }

    fn sql_over(&self, column: &str, modulus: Modulus) -> String {
        match self.form {
            // The remainder first: no step of these can overflow at the ends of BIGINT. `MOD`
            // and not `%`, which would have to be escaped in some clients.
            Form::SignedFloor => {
                format!("((({column} MOD {modulus}) + {modulus}) MOD {modulus})")
            }
            Form::SignedAbs => format!("ABS({column} MOD {modulus})"),
            Form::Unsigned => format!("({column} MOD {modulus})"),
            Form::Crc32 { conversion, char_column } => {
                // PAD_CHAR_TO_FULL_LENGTH shows a CHAR with its padding.
                let key = match char_column {
                    true => format!("RTRIM({column})"),
                    false => column.to_owned(),
                };
                let key = match conversion {
                    Conversion::Identity => key,
                    Conversion::Latin1ToUtf8 => format!("CONVERT({key} USING utf8mb4)"),
                };
                // Under sql_mode=ORACLE, RTRIM makes NULL of an empty string; its CRC-32 is 0.
                let hash = match (char_column, self.nullable) {
                    (true, true) => {
                        format!("IF({column} IS NULL, NULL, COALESCE(CRC32({key}), 0))")
                    }
                    (true, false) => format!("COALESCE(CRC32({key}), 0)"),
                    (false, _) => format!("CRC32({key})"),
                };
                format!("({hash} MOD {modulus})")
            }
        }
    }

    /// An aggregate over rows: 0 exactly if every one of them lies where its key places it, on
    /// shard `home` of `modulus`; a NULL lies anywhere. The same answer as comparing [`BoundRule::sql`] with `home`, in
    /// fewer steps per row, which is what counts where millions are read.
    pub fn sql_away(&self, modulus: Modulus, home: u16) -> String {
        /// The sign bit; as an unsigned number -2^63 is 0, and 0 is this.
        const SIGN: u64 = 1 << 63;
        let (column, shards) = (&self.column, u64::from(modulus.get()));
        match self.form {
            // Of a power of two the remainder is the lowest bits, of negative numbers too.
            Form::SignedFloor | Form::Unsigned if shards.is_power_of_two() => {
                format!("(BIT_OR({column} ^ {home}) & {})", shards - 1)
            }
            Form::SignedFloor => {
                let expected = (u64::from(home) + SIGN % shards) % shards;
                format!("BIT_OR((({column} ^ {SIGN}) MOD {shards}) ^ {expected})")
            }
            Form::SignedAbs | Form::Unsigned | Form::Crc32 { .. } => {
                format!("BIT_OR({} ^ {home})", self.sql(modulus))
            }
        }
    }
}

/// Spaces only, as MariaDB strips them, and no other white space.
fn without_trailing_spaces(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|&byte| byte != b' ').map_or(0, |last| last + 1);
    &text[..end]
}
