//! Session tags, and their inheritance in a role chain.

/// One session tag. Keys are case-insensitive.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_session-tags.html>
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Tag {
    pub(crate) key: String,
    pub(crate) value: String,
    /// Whether the tag is transitive: sessions that this one assumes inherit it.
    pub(crate) transitive: bool,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Tags(Vec<Tag>);

impl Tags {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Tag> {
        self.0.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn find(&self, key: &str) -> Option<&Tag> {
        self.0.iter().find(|tag| tag.key.eq_ignore_ascii_case(key))
    }

    /// Adds a tag, unless there is one with the same key.
    pub(crate) fn add(&mut self, tag: Tag) {
        if self.find(&tag.key).is_none() {
            self.0.push(tag);
        }
    }

    /// Returns the tags that the next session of a role chain inherits.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_session-tags.html#id_session-tags_role-chaining>
    pub(crate) fn transitive(&self) -> Self {
        self.0.iter().filter(|tag| tag.transitive).cloned().collect()
    }
}

impl FromIterator<Tag> for Tags {
    fn from_iter<I: IntoIterator<Item = Tag>>(tags: I) -> Self {
        let mut collected = Self::default();
        tags.into_iter().for_each(|tag| collected.add(tag));
        collected
    }
}
