//! Every form of cell reads back as it was written, alone and among others.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod support;

use modshift_proto::row::{
    DateTime, RowView, RowWriter, cell_datetime, cell_double, cell_float, cell_int, cell_uint,
};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Value {
    Null,
    Int(i64),
    UInt(u64),
    Float(u32),
    Double(u64),
    Date(u16, u8, u8),
    DateTime(DateTime),
    Time(i64),
    Bytes(Vec<u8>),
    Padded(Vec<u8>, usize),
}

/// Whatever fits the packed form, zero and impossible dates among them.
fn moment() -> impl Strategy<Value = DateTime> {
    let parts = (0..=9999u16, 0..=15u8, 0..=31u8, 0..=31u8, 0..=63u8, 0..=63u8, 0..1_000_000u32);
    parts.prop_map(|(year, month, day, hour, minute, second, micro)| DateTime {
        year,
        month,
        day,
        hour,
        minute,
        second,
        micro,
    })
}

/// The widest values that MariaDB's types can hold.
fn value() -> impl Strategy<Value = Value> {
    let bytes = || vec(any::<u8>(), 0..300);
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Int),
        prop_oneof![Just(i64::MIN), Just(i64::MAX), -70..70i64].prop_map(Value::Int),
        any::<u64>().prop_map(Value::UInt),
        any::<u32>().prop_map(Value::Float),
        any::<u64>().prop_map(Value::Double),
        (0..=9999u16, 0..=15u8, 0..=31u8).prop_map(|(y, m, d)| Value::Date(y, m, d)),
        moment().prop_map(Value::DateTime),
        (-3_020_399_999_999..=3_020_399_999_999i64).prop_map(Value::Time),
        bytes().prop_map(Value::Bytes),
        (bytes(), 0..255usize).prop_map(|(bytes, width)| Value::Padded(bytes, width)),
    ]
}

fn write(values: &[Value], out: &mut Vec<u8>) {
    let mut row = RowWriter::new(out, values.len());
    for value in values {
        match value {
            Value::Null => row.null(),
            Value::Int(value) => row.int(*value),
            Value::UInt(value) => row.uint(*value),
            Value::Float(bits) => row.float(f32::from_bits(*bits)),
            Value::Double(bits) => row.double(f64::from_bits(*bits)),
            Value::Date(year, month, day) => row.date(*year, *month, *day),
            Value::DateTime(value) => row.datetime(*value),
            Value::Time(micros) => row.time(*micros),
            Value::Bytes(bytes) => row.bytes(bytes),
            Value::Padded(bytes, width) => row.bytes_padded(bytes, *width),
        }
    }
    row.finish();
}

fn check(value: &Value, cell: Option<&[u8]>) {
    let Some(cell) = cell else {
        assert!(matches!(value, Value::Null), "{value:?} is not NULL");
        return;
    };
    match value {
        Value::Null => panic!("NULL has a value: {cell:?}"),
        Value::Int(value) | Value::Time(value) => assert_eq!(cell_int(cell), Ok(*value)),
        Value::UInt(value) => assert_eq!(cell_uint(cell), Ok(*value)),
        // By bits: a NaN is no value of MariaDB's, yet must not change.
        Value::Float(bits) => assert_eq!(cell_float(cell).unwrap().to_bits(), *bits),
        Value::Double(bits) => assert_eq!(cell_double(cell).unwrap().to_bits(), *bits),
        Value::Date(year, month, day) => {
            let packed = cell_uint(cell).unwrap();
            let parts = (packed >> 9, (packed >> 5) & 15, packed & 31);
            assert_eq!(parts, (u64::from(*year), u64::from(*month), u64::from(*day)));
        }
        Value::DateTime(value) => assert_eq!(cell_datetime(cell), Ok(*value)),
        Value::Bytes(bytes) => assert_eq!(cell, bytes),
        Value::Padded(bytes, width) => {
            assert_eq!(cell.len(), bytes.len().max(*width));
            assert_eq!(&cell[..bytes.len()], bytes);
            assert!(cell[bytes.len()..].iter().all(|&byte| byte == 0));
        }
    }
}

#[test]
fn a_row_reads_back_as_it_was_written() {
    let mut runner = proptest::test_runner::TestRunner::new(support::cases("rows", 10_000));
    let test = |(values, before): (Vec<Value>, Vec<u8>)| {
        // The writer appends: what lies before its row must not matter.
        let mut out = before.clone();
        write(&values, &mut out);
        prop_assert_eq!(&out[..before.len()], &before);
        let mut cells = Vec::new();
        RowView::parse(&out[before.len()..]).unwrap().collect(values.len(), &mut cells).unwrap();
        values.iter().zip(cells).for_each(|(value, cell)| check(value, cell));
        Ok(())
    };
    runner.run(&(vec(value(), 0..24), vec(any::<u8>(), 0..4)), test).unwrap();
}

/// Ordering in the packed form is that of time: lag and paging may compare it.
#[test]
fn packed_moments_are_ordered_like_moments() {
    let mut runner = proptest::test_runner::TestRunner::new(support::cases("moments", 10_000));
    let test = |(a, b): (DateTime, DateTime)| {
        let parts = |m: DateTime| (m.year, m.month, m.day, m.hour, m.minute, m.second, m.micro);
        prop_assert_eq!(a.pack().cmp(&b.pack()), parts(a).cmp(&parts(b)));
        prop_assert_eq!(DateTime::unpack(a.pack()), a);
        Ok(())
    };
    runner.run(&(moment(), moment()), test).unwrap();
}
