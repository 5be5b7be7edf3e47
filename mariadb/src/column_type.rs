//! information_schema's words for a column's type, as a [`DataType`].

use modshift_proto::schema::DataType;

/// The numbers that information_schema gives beside the type.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sizes {
    pub octets: Option<u64>,
    pub precision: Option<u64>,
    pub scale: Option<u64>,
    pub fraction: Option<u64>,
}

/// `None` for a type whose values modshift cannot carry exactly.
///
/// JSON is LONGTEXT to the server, here too.
pub(crate) fn data_type(name: &str, type_text: &str, sizes: Sizes) -> Option<DataType> {
    use DataType as T;
    let unsigned = type_text.contains(" unsigned");
    let int = |bytes| T::Int { bytes, unsigned };
    let small = |number: Option<u64>| number.and_then(|n| u8::try_from(n).ok());
    let fsp = small(sizes.fraction).unwrap_or(0);
    Some(match name {
        "tinyint" => int(1),
        "smallint" => int(2),
        "mediumint" => int(3),
        "int" => int(4),
        "bigint" => int(8),
        // YEAR(2) reads back two digits of the year.
        "year" if type_text != "year(2)" => T::Year,
        "bit" => T::Bit { bits: small(sizes.precision)? },
        "enum" => T::Enum,
        "set" => T::Set,
        "float" => T::Float,
        "double" => T::Double,
        "decimal" => T::Decimal { precision: small(sizes.precision)?, scale: small(sizes.scale)? },
        "date" => T::Date,
        "time" => T::Time { fsp },
        "datetime" => T::DateTime { fsp },
        "timestamp" => T::Timestamp { fsp },
        "char" => T::Char,
        "varchar" => T::VarChar,
        "tinytext" | "text" | "mediumtext" | "longtext" => T::Text,
        "json" => T::Json,
        "binary" => T::Binary { len: small(sizes.octets)? },
        "varbinary" => T::VarBinary,
        "tinyblob" | "blob" | "mediumblob" | "longblob" => T::Blob,
        "uuid" => T::Uuid,
        "inet4" => T::Inet4,
        "inet6" => T::Inet6,
        "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
        | "multipolygon" | "geometrycollection" => T::Geometry,
        _ => return None,
    })
}
