//! A TOML document that knows its lines, so that a mistake in it can be pointed at. Pure.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What is wrong with a configuration file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// From 1.
    pub(crate) line: usize,
    /// Names the key. Holds no value that could be secret.
    pub(crate) reason: String,
}

/// A table of a document.
#[derive(Clone, Copy)]
pub(crate) struct Section<'t> {
    text: &'t str,
    table: &'t DeTable<'t>,
}

/// Parses `text` and has `read` make something of its root table.
pub(crate) fn parse<T>(
    text: &str,
    read: impl FnOnce(Section<'_>) -> Result<T, Mistake>,
) -> Result<T, Mistake> {
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        Mistake { line: line(text, at), reason: format!("no TOML: {}", error.message()) }
    })?;
    read(Section { text, table: document.get_ref() })
}

impl<'t> Section<'t> {
    /// The value of `key`, if it is there.
    pub(crate) fn get(&self, key: &str) -> Option<Value<'t>> {
        let found = self.table.iter().find(|(name, _)| name.get_ref() == key);
        found.map(|(name, value)| Value { text: self.text, name: name.get_ref(), value })
    }

    /// All keys with their values, in the file's order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Value<'t>> {
        let text = self.text;
        self.table.iter().map(move |(name, value)| Value { text, name: name.get_ref(), value })
    }

    /// The text of `key`, if it is there.
    pub(crate) fn string(&self, key: &str) -> Result<Option<&'t str>, Mistake> {
        self.get(key).map(|value| value.string()).transpose()
    }

    /// The truth of `key`, false if it is not there.
    pub(crate) fn flag(&self, key: &str) -> Result<bool, Mistake> {
        let Some(value) = self.get(key) else { return Ok(false) };
        value.value.get_ref().as_bool().ok_or_else(|| value.wrong("want true or false"))
    }
}

/// A value with its key and its place.
#[derive(Clone, Copy)]
pub(crate) struct Value<'t> {
    text: &'t str,
    /// The key it stands under.
    pub(crate) name: &'t str,
    value: &'t Spanned<DeValue<'t>>,
}

impl<'t> Value<'t> {
    /// Its text.
    pub(crate) fn string(&self) -> Result<&'t str, Mistake> {
        self.value.get_ref().as_str().ok_or_else(|| self.wrong("want a string"))
    }

    /// Its elements, if it is an array.
    pub(crate) fn elements(&self) -> Option<impl Iterator<Item = Value<'t>>> {
        let (text, name) = (self.text, self.name);
        let elements = self.value.get_ref().as_array()?;
        Some(elements.iter().map(move |value| Value { text, name, value }))
    }

    /// Its text or texts: containerd takes one for a list of one.
    pub(crate) fn strings(&self) -> Result<Vec<&'t str>, Mistake> {
        match self.elements() {
            None => Ok(vec![self.string()?]),
            Some(elements) => elements.map(|element| element.string()).collect(),
        }
    }

    /// The table that it is.
    pub(crate) fn section(&self) -> Result<Section<'t>, Mistake> {
        let table = self.value.get_ref().as_table().ok_or_else(|| self.wrong("want a table"))?;
        Ok(Section { text: self.text, table })
    }

    /// The tables that it is an array of.
    pub(crate) fn sections(&self) -> Result<Vec<Section<'t>>, Mistake> {
        let elements = self.elements().ok_or_else(|| self.wrong("want an array of tables"))?;
        elements.map(|element| element.section()).collect()
    }

    /// This value is not right.
    pub(crate) fn wrong(&self, reason: impl std::fmt::Display) -> Mistake {
        let Range { start, .. } = self.value.span();
        Mistake { line: line(self.text, start), reason: format!("{}: {reason}", self.name) }
    }
}

fn line(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    before.iter().filter(|&&b| b == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_have_a_line_and_a_key() {
        let mistake = |text: &str| parse(text, |root| root.flag("a")).unwrap_err();
        assert_eq!(
            mistake("\n\na = 3\n"),
            Mistake { line: 3, reason: "a: want true or false".into() }
        );
        let broken = mistake("a = true\nb = \"x\n");
        assert_eq!(broken.line, 2, "{broken:?}");
        assert!(broken.reason.starts_with("no TOML: "), "{broken:?}");
    }

    #[test]
    fn order_is_the_files() {
        let text = "[host.z]\n[host.a]\n[host.m]\n";
        let names = parse(text, |root| {
            let hosts = root.get("host").unwrap().section()?;
            Ok(hosts.entries().map(|entry| entry.name.to_owned()).collect::<Vec<_>>())
        });
        assert_eq!(names.unwrap(), ["z", "a", "m"]);
    }
}
