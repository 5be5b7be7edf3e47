//! The model's one table, as the shipped routing sees it: id, key, unique value, version.

use modshift_proto::plan::Plan;
use modshift_proto::row::{RowView, RowWriter};
use modshift_proto::{Column, DataType, Modulus, OldShard, TableSchema};
use modshift_replicator::route::{self, Moduli, Place, RoutedTable};

use super::case::key_of;
use crate::places::Row;

pub struct Table {
    /// By old shard.
    routed: Vec<(RoutedTable, Moduli)>,
}

/// A row's cells in wire form.
pub struct Cells(Vec<Vec<u8>>);

impl Cells {
    pub fn new(id: u8, row: &Row) -> Cells {
        let mut wire = Vec::new();
        let mut writer = RowWriter::new(&mut wire, 4);
        for value in [id, key_of(row.version), row.unique, row.version] {
            writer.uint(value.into());
        }
        writer.finish();
        let view = RowView::parse(&wire).expect("what was written");
        Cells(view.cells().map(|cell| cell.expect("a cell").unwrap_or_default().to_vec()).collect())
    }
}

impl route::Cells for Cells {
    fn cell(&self, column: usize) -> Option<&[u8]> {
        self.0.get(column).map(Vec::as_slice)
    }
}

impl Table {
    pub fn new(old: u16, new: u16) -> Table {
        // Of the plan only the table counts: no plan would move one shard to one shard.
        let mut text = "name = \"t\"\nmodulus = { old = 2, new = 3 }\n[log]\nkind = \"direct\"\n\
             [defaults]\nuser = \"u\"\npassword = \"p\"\ntls = \"off\"\n"
            .to_owned();
        for (side, count) in [("old", 2), ("new", 3)] {
            for index in 0..count {
                text +=
                    &format!("[[{side}]]\nhost = \"{side}\"\nport = 1\nschema = \"s{index}\"\n");
            }
        }
        text += "[[table]]\nname = \"t\"\nkey = \"uid\"\nrule = \"floor_mod\"\n";
        let plan = Plan::parse(&text, &|_| None).expect("a good plan");
        let column = |name: &str| Column {
            name: name.to_owned(),
            data: DataType::Int { bytes: 1, unsigned: true },
            type_text: "tinyint(3) unsigned".to_owned(),
            charset: None,
            collation: None,
            nullable: false,
            generated: false,
        };
        let schema = TableSchema {
            name: "t".to_owned(),
            columns: ["id", "uid", "handle", "version"].map(column).to_vec(),
            primary_key: vec![0],
            unique_keys: Vec::new(),
        };
        let modulus = |shards| Modulus::new(shards).expect("at least one shard");
        let routed = (0..old)
            .map(|shard| {
                let source = OldShard(shard);
                let table = RoutedTable::bind(&plan, 0, schema.clone(), source).expect("it fits");
                let moduli = Moduli { source, old: modulus(old), new: modulus(new) };
                (table, moduli)
            })
            .collect();
        Table { routed }
    }

    /// Where a row of an old shard belongs.
    pub fn place(&self, shard: u16, cells: &Cells) -> Place {
        let (table, moduli) = &self.routed[usize::from(shard)];
        route::place(table, *moduli, cells).expect("no strays in these histories")
    }

    /// A primary key in wire form.
    pub fn key(&self, id: u8) -> Vec<u8> {
        let (table, _) = &self.routed[0];
        let mut out = Vec::new();
        let row = Row { owner: 0, unique: 0, version: 0 };
        route::write_key_row(&table.schema, &Cells::new(id, &row), &mut out);
        out
    }
}
