//! Reading and writing files by their descriptors, from and to memory of the program's own or of a mapping.

use super::files::Node;
use super::sync::WHOLE;
use super::{Answer, Failed, Player, done};
use crate::recording::Record;
use crate::script::Place;
use std::sync::Arc;
use udax_core::{Filesystem as _, PAGE_BYTES, PageRange};

/// So much is read in one go.
const CHUNK: u64 = 1 << 21;

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The one value that all bytes have.
fn same_byte(bytes: &[u8]) -> Option<u8> {
    let first = *bytes.first()?;
    bytes.iter().all(|byte| *byte == first).then_some(first)
}

/// What a page holds, in brief.
fn brief(bytes: &[u8]) -> String {
    match same_byte(bytes) {
        Some(byte) => format!("{byte:02x}"),
        None => format!("crc{:08x}/{}", crc32fast::hash(bytes), bytes.len()),
    }
}

fn read_all(node: &Node, place: Place) -> Result<Vec<u8>, Failed> {
    let left = node.sim.size_bytes().saturating_sub(place.offset);
    let mut bytes = vec![0; in_memory(place.length.min(left))];
    let count = node.mapping.read(place.offset, &mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

impl Player<'_> {
    pub(super) fn pread(&self, name: &str, place: Place) -> Answer {
        let node = self.readable(name)?;
        let bytes = read_all(&node, place)?;
        let known = node.looks_past_end(PageRange::of_bytes(place.offset, place.length));
        Ok(Record {
            known,
            ok: Some(true),
            n: i64::try_from(bytes.len()).ok(),
            crc32: Some(format!("{:08x}", crc32fast::hash(&bytes))),
            byte: same_byte(&bytes).map(|byte| format!("{byte:02x}")),
            ..Record::default()
        })
    }

    pub(super) fn pwrite(&mut self, name: &str, place: Place, byte: u8, dsync: bool) -> Answer {
        let (node, open) = self.writable(name, "EBADF")?;
        let bytes = vec![byte; in_memory(place.length)];
        self.write_bytes(&node, place.offset, &bytes, dsync || open.dsync)
    }

    fn write_bytes(&self, node: &Node, offset: u64, bytes: &[u8], dsync: bool) -> Answer {
        let limit = self.flavour.largest_file();
        if bytes.is_empty() {
            return Ok(Record { ok: Some(true), n: Some(0), ..Record::default() });
        }
        if offset >= limit {
            return Err(Failed::Errno("EFBIG"));
        }
        let bytes = &bytes[..bytes.len().min(in_memory(limit - offset))];
        let count = node.mapping.write(offset, bytes)?;
        if dsync && count > 0 {
            node.mapping.sync(PageRange::of_bytes(offset, count as u64))?;
        }
        let n = i64::try_from(count).ok();
        Ok(Record { ok: Some(true), n, ..Record::default() })
    }

    /// Reads into a mapping: page by page, as the kernel copies, up to the first page that cannot be had.
    pub(super) fn pread_map(&mut self, name: &str, place: Place, map: &str, at: u64) -> Answer {
        let node = self.readable(name)?;
        let mut done = 0;
        while done < place.length {
            let (from, to) = (place.offset + done, at + done);
            let room = (PAGE_BYTES - to % PAGE_BYTES).min(PAGE_BYTES - from % PAGE_BYTES);
            let length = room.min(place.length - done);
            let bytes = read_all(&node, Place { offset: from, length })?;
            if bytes.is_empty() {
                break;
            }
            match self.store(map, to, &bytes) {
                Ok(()) => done += bytes.len() as u64,
                Err(not_compared @ Failed::NotCompared(_)) => return Err(not_compared),
                Err(_) => {
                    self.recorder.bad_buffer();
                    return Ok(bad_buffer(done));
                }
            }
        }
        Ok(Record { ok: Some(true), n: i64::try_from(done).ok(), ..Record::default() })
    }

    /// Writes from a mapping.
    pub(super) fn pwrite_map(&mut self, name: &str, place: Place, map: &str, at: u64) -> Answer {
        let (node, open) = self.writable(name, "EBADF")?;
        let mut bytes = vec![0; in_memory(place.length)];
        let mut loaded = 0;
        while loaded < bytes.len() {
            let from = at + loaded as u64;
            let end = bytes.len().min(loaded + in_memory(PAGE_BYTES - from % PAGE_BYTES));
            match self.load(map, from, &mut bytes[loaded..end]) {
                Ok(()) => loaded = end,
                Err(not_compared @ Failed::NotCompared(_)) => return Err(not_compared),
                Err(_) => {
                    self.recorder.bad_buffer();
                    break;
                }
            }
        }
        if loaded == 0 && !bytes.is_empty() {
            return Ok(bad_buffer(0));
        }
        self.write_bytes(&node, place.offset, &bytes[..loaded], open.dsync)
    }

    pub(super) fn hash(&self, name: &str) -> Answer {
        let node = self.readable(name)?;
        let mut hasher = crc32fast::Hasher::new();
        let size = node.sim.size_bytes();
        let mut offset = 0;
        while offset < size {
            hasher.update(&read_all(&node, Place { offset, length: CHUNK })?);
            offset += CHUNK;
        }
        let (crc32, n) = (Some(format!("{:08x}", hasher.finalize())), i64::try_from(size).ok());
        let known = node.looks_past_end(WHOLE);
        Ok(Record { ok: Some(true), crc32, n, known, ..Record::default() })
    }

    pub(super) fn hexdump(&self, name: &str, place: Place) -> Answer {
        let node = self.readable(name)?;
        let bytes = read_all(&node, place)?;
        let hex = Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        let known = node.looks_past_end(PageRange::of_bytes(place.offset, place.length));
        Ok(Record { ok: Some(true), hex, known, ..Record::default() })
    }

    pub(super) fn pages(&self, name: &str) -> Answer {
        let node = self.readable(name)?;
        let mut runs: Vec<(u64, u64, String)> = Vec::new();
        for page in 0..node.pages() {
            let bytes = read_all(&node, Place { offset: page * PAGE_BYTES, length: PAGE_BYTES })?;
            let held = brief(&bytes);
            match runs.last_mut() {
                Some((_, count, same)) if *same == held => *count += 1,
                _ => runs.push((page, 1, held)),
            }
        }
        let runs = runs.into_iter().map(|run| serde_json::json!([run.0, run.1, run.2]));
        let known = node.looks_past_end(WHOLE);
        Ok(Record { ok: Some(true), runs: Some(runs.collect()), known, ..Record::default() })
    }

    pub(super) fn stat(&self, name: &str) -> Answer {
        let file = self.file(name)?;
        let pages: u64 = file.node.sim.extents().iter().map(|extent| extent.range.len()).sum();
        Ok(Record {
            ok: Some(true),
            size: Some(file.node.sim.size_bytes()),
            blocks512: Some(pages * (PAGE_BYTES / 512)),
            dax: Some(file.is_dax),
            ..Record::default()
        })
    }

    /// What `falloc` and `truncate` do on a descriptor that syncs every write.
    pub(super) fn sync_if(&self, node: &Arc<Node>, dsync: bool) -> Answer {
        if dsync {
            node.mapping.sync(WHOLE)?;
        }
        done()
    }
}

/// A copy that met a page that cannot be had after so many bytes.
fn bad_buffer(done: u64) -> Record {
    if done > 0 {
        return Record { ok: Some(true), n: i64::try_from(done).ok(), ..Record::default() };
    }
    let err = Some("EFAULT".to_owned());
    Record { ok: Some(false), err, n: Some(-1), ..Record::default() }
}
