//! One table of the plan's TOML, read key by key.
//!
//! A reader asks for each key that it knows; what it asks for is what is known, so that
//! [`Section::finish`] can refuse the rest. A wrong or missing value becomes a fault and a
//! placeholder takes its place: the plan is given out only if there was no fault.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::Faults;
use super::nearest::nearest;
use super::quantity::{format_duration, format_size, parse_duration, parse_size};
use super::variable::expand;

/// What reading needs besides the text.
pub(super) struct Context<'a> {
    pub faults: Faults<'a>,
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Relative paths in the plan start here.
    pub folder: &'a Path,
    /// The text was no TOML in places: what seems missing may stand there.
    pub broken: bool,
}

pub(super) struct Section<'a> {
    pub context: &'a Context<'a>,
    pub path: String,
    span: Range<usize>,
    entries: Option<&'a DeTable<'a>>,
    known: RefCell<Vec<&'static str>>,
}

/// One value and where it stands.
pub(super) struct Item<'a> {
    context: &'a Context<'a>,
    pub path: String,
    pub span: Range<usize>,
    value: &'a DeValue<'a>,
}

impl<'a> Section<'a> {
    pub fn root(context: &'a Context<'a>, table: &'a Spanned<DeTable<'a>>) -> Section<'a> {
        let entries = Some(table.get_ref());
        Section { context, path: String::new(), span: 0..0, entries, known: RefCell::default() }
    }

    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Says that a key is known, and gives its value.
    pub fn get(&self, key: &'static str) -> Option<Item<'a>> {
        self.known.borrow_mut().push(key);
        let (_, value) = self.entries?.iter().find(|(name, _)| name.get_ref() == key)?;
        let (path, span) = (self.path_of(key), value.span());
        Some(Item { context: self.context, path, span, value: value.get_ref() })
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.is_some_and(|table| table.keys().any(|name| name.get_ref() == key))
    }

    /// The same, and a fault if there is none.
    pub fn required(&self, key: &'static str, expected: &str) -> Option<Item<'a>> {
        let item = self.get(key);
        if item.is_none() {
            self.missing(key, expected);
        }
        item
    }

    pub fn missing(&self, key: &str, expected: &str) {
        if !self.context.broken {
            let message = format!("missing, expected {expected}");
            self.context.faults.add(self.span.clone(), &self.path_of(key), message);
        }
    }

    /// A fault of the section as a whole.
    pub fn fault(&self, message: impl Into<String>) {
        self.context.faults.add(self.span.clone(), &self.path, message);
    }

    /// A fault of what has no section of its own.
    pub fn fault_as(&self, path: &str, message: impl Into<String>) {
        self.context.faults.add(self.span.clone(), path, message);
    }

    /// A fault of one key, which need not be there.
    pub fn fault_at(&self, key: &'static str, message: impl Into<String>) {
        let span = self.get(key).map_or(self.span.clone(), |item| item.span);
        self.context.faults.add(span, &self.path_of(key), message);
    }

    /// A table below; an absent one is empty.
    pub fn section(&self, key: &'static str) -> Section<'a> {
        let (entries, span) = match self.get(key) {
            None => (None, self.span.clone()),
            Some(Item { value: DeValue::Table(table), span, .. }) => (Some(table), span),
            Some(item) => {
                item.expected("a table");
                (None, item.span)
            }
        };
        let path = self.path_of(key);
        Section { context: self.context, path, span, entries, known: RefCell::default() }
    }

    /// An array of tables below; an absent one is empty.
    pub fn sections(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some(item) = self.get(key) else { return Vec::new() };
        let DeValue::Array(array) = item.value else {
            item.expected("an array of tables");
            return Vec::new();
        };
        let section = |(index, value): (usize, &'a Spanned<DeValue<'a>>)| {
            let (context, path) = (self.context, format!("{}[{index}]", self.path_of(key)));
            let span = value.span();
            let DeValue::Table(table) = value.get_ref() else {
                context.faults.add(span, &path, "expected a table");
                return None;
            };
            Some(Section { context, path, span, entries: Some(table), known: RefCell::default() })
        };
        array.iter().enumerate().filter_map(section).collect()
    }

    /// Every value of a table whose keys are free. A dotted key, which in TOML is a table in a
    /// table, comes out as it was written.
    pub fn items(&self) -> Vec<(String, Item<'a>)> {
        let mut items = Vec::new();
        if let Some(entries) = self.entries {
            self.flatten(entries, "", &mut items);
        }
        items
    }

    fn flatten(&self, entries: &'a DeTable<'a>, above: &str, items: &mut Vec<(String, Item<'a>)>) {
        for (name, value) in entries {
            let name = format!("{above}{}", name.get_ref());
            if let DeValue::Table(below) = value.get_ref() {
                self.flatten(below, &format!("{name}."), items);
                continue;
            }
            let (path, span) = (self.path_of(&name), value.span());
            let item = Item { context: self.context, path, span, value: value.get_ref() };
            items.push((name, item));
        }
    }

    /// Refuses every key that was not asked for.
    pub fn finish(self) {
        let known = self.known.into_inner();
        for name in self.entries.into_iter().flat_map(|table| table.keys()) {
            let key = name.get_ref().as_ref();
            if known.contains(&key) {
                continue;
            }
            let message = match nearest(key, &known) {
                Some(near) => format!("unknown key, did you mean {near}?"),
                None => format!("unknown key, expected one of {}", known.join(", ")),
            };
            let path =
                if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
            self.context.faults.add(name.span(), &path, message);
        }
    }

    pub fn duration(
        &self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        self.get(key).and_then(|item| item.duration(range)).unwrap_or(default)
    }

    /// A size in bytes.
    pub fn size(&self, key: &'static str, default: usize, range: RangeInclusive<u64>) -> usize {
        let size = self.get(key).and_then(|item| item.size(range));
        size.and_then(|size| usize::try_from(size).ok()).unwrap_or(default)
    }

    /// A whole number.
    pub fn number<T: TryFrom<u64>>(
        &self,
        key: &'static str,
        default: T,
        range: RangeInclusive<u64>,
    ) -> T {
        let number = self.get(key).and_then(|item| item.number(range));
        number.and_then(|number| T::try_from(number).ok()).unwrap_or(default)
    }

    pub fn flag(&self, key: &'static str) -> bool {
        self.get(key).and_then(|item| item.flag()).unwrap_or(false)
    }
}

impl<'a> Item<'a> {
    pub fn fault(&self, message: impl Into<String>) {
        self.context.faults.add(self.span.clone(), &self.path, message);
    }

    /// A fault that names what stands in the plan: as written, before variables, and only of
    /// kinds that hold no secrets.
    pub fn expected(&self, what: &str) {
        let found = match self.value {
            DeValue::String(text) => format!("{:?}", text.as_ref()),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(flag) => flag.to_string(),
            DeValue::Datetime(_) => "a date".to_owned(),
            DeValue::Array(_) => "an array".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        };
        self.fault(format!("expected {what}, found {found}"));
    }

    /// A string with its variables filled in.
    pub fn text(&self) -> Option<String> {
        let DeValue::String(text) = self.value else {
            self.expected("a string");
            return None;
        };
        match expand(text, self.context.env) {
            Ok(text) => Some(text),
            Err(messages) => {
                messages.into_iter().for_each(|message| self.fault(message));
                None
            }
        }
    }

    /// A string that may be a secret: never shown, not even as written.
    pub fn secret(&self) -> Option<String> {
        match self.value {
            DeValue::String(_) => self.text(),
            _ => {
                self.fault("expected a string");
                None
            }
        }
    }

    /// A string that passes a test; `what` says which.
    pub fn text_that(&self, what: &str, test: impl Fn(&str) -> bool) -> Option<String> {
        let text = self.text()?;
        if test(&text) {
            return Some(text);
        }
        self.expected(what);
        None
    }

    /// A file's path; a relative one starts at the plan's folder.
    pub fn file(&self) -> Option<PathBuf> {
        let text = self.text_that("a file", |text| !text.is_empty())?;
        Some(self.context.folder.join(text))
    }

    /// A string or a plain value, as a string.
    pub fn scalar(&self) -> Option<String> {
        match self.value {
            DeValue::Integer(number) => Some(number.to_string()),
            DeValue::Boolean(flag) => Some(flag.to_string()),
            _ => self.secret(),
        }
    }

    /// Is it this very text?
    pub fn is_text(&self, expected: &str) -> bool {
        matches!(self.value, DeValue::String(text) if text == expected)
    }

    pub fn number(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let number = self.integer().filter(|number| range.contains(number));
        if number.is_none() {
            self.expected(&format!("a whole number, {} to {}", range.start(), range.end()));
        }
        number
    }

    fn integer(&self) -> Option<u64> {
        match self.value {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        }
    }

    pub fn flag(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(flag) => Some(*flag),
            _ => {
                self.expected("true or false");
                None
            }
        }
    }

    pub fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let duration = match self.value {
            DeValue::String(_) => parse_duration(&self.text()?),
            _ => None,
        };
        let duration = duration.filter(|duration| range.contains(duration));
        if duration.is_none() {
            let (low, high) = (format_duration(*range.start()), format_duration(*range.end()));
            self.expected(&format!("a duration such as \"200ms\" or \"1h\", {low} to {high}"));
        }
        duration
    }

    /// An integer of bytes, or a string with a unit.
    pub fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let size = match self.value {
            DeValue::String(_) => parse_size(&self.text()?),
            _ => self.integer(),
        };
        let size = size.filter(|size| range.contains(size));
        if size.is_none() {
            let (low, high) = (format_size(*range.start()), format_size(*range.end()));
            self.expected(&format!("a size such as \"64MiB\" or bytes, {low} to {high}"));
        }
        size
    }

    /// One of a few words.
    pub fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let known: Vec<&str> = words.iter().map(|&(word, _)| word).collect();
        let text = match self.value {
            DeValue::String(_) => self.text()?,
            _ => String::new(),
        };
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            self.expected(&format!("one of {}", known.join(", ")));
        }
        found.map(|&(_, value)| value)
    }

    /// How many elements an array has; what is none has none.
    pub fn count(&self) -> usize {
        match self.value {
            DeValue::Array(array) => array.len(),
            _ => 0,
        }
    }

    /// Each element of an array.
    pub fn elements(&self) -> Vec<Item<'a>> {
        let DeValue::Array(array) = self.value else {
            self.expected("an array");
            return Vec::new();
        };
        let element = |(index, value): (usize, &'a Spanned<DeValue<'a>>)| Item {
            context: self.context,
            path: format!("{}[{index}]", self.path),
            span: value.span(),
            value: value.get_ref(),
        };
        array.iter().enumerate().map(element).collect()
    }
}
