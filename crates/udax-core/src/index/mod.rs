//! The index of one file: which mapping entry covers which page.
//!
//! Glossary: a *node* has 64 slots; a *leaf* is a node whose slots are 4 KiB entries; an *inner* node's slots are nodes, or, one
//! level above the leaves, 2 MiB entries; the *level* of a leaf is 0; the *height* of the index is the number of its levels;
//! a *mark* is a bit of an entry that a range can be searched for; a *spare* is a node that holds nothing yet.
//!
//! A radix tree of six bits a level over the page index. A 2 MiB entry fills eight neighbouring slots of a level-1 node with
//! the same word, so that one look-up finds it from each of its 512 pages, and all eight slots change together. Each node
//! keeps one bitmap of the slots in use and one for each mark; a bit of an inner node tells of the whole tree below it, so
//! that searches skip what is empty or clean. There is no node without an entry below it, and no level above that is not
//! needed.
//!
//! Everything here happens under the file's tree lock, which the caller holds; nothing waits, and nothing but
//! [`Index::reserve`] and [`Index::insert`] allocates. The index neither knows nor cares whether an entry is locked.

mod iter;
mod marks;
mod node;
mod tree;

#[cfg(test)]
mod tests;

pub(crate) use marks::Mark;
pub(crate) use tree::{Found, Index, InsertError};
