//! What is done to files.

use crate::{Op, PAGE, PAGES, World};
use std::os::unix::fs::FileExt as _;
use udax::File;

impl World {
    pub fn do_by_file(&mut self, op: &Op) -> Option<()> {
        let (Op::Write { file, .. }
        | Op::Read { file, .. }
        | Op::ReserveFile { file, .. }
        | Op::Punch { file, .. }
        | Op::Resize { file, .. }
        | Op::Sync { file }) = *op
        else {
            unreachable!("another's")
        };
        let one = &mut self.files[usize::from(file)];
        match *op {
            Op::Write { page, pages, value, .. } => {
                let page = one.page(page)?;
                let pages = usize::from(pages).clamp(1, one.model.len() - page);
                let bytes = vec![value; pages * PAGE];
                let written = one.file.write_at(&bytes, (page * PAGE) as u64);
                assert_eq!(written.expect("there is space"), bytes.len());
                one.model[page..page + pages].fill(value);
            }
            Op::Read { page, .. } => {
                let page = one.page(page)?;
                let mut bytes = vec![1; PAGE];
                let read = one.file.read_at(&mut bytes, (page * PAGE) as u64);
                assert_eq!(read.expect("it can be read"), PAGE);
                assert!(
                    bytes.iter().all(|byte| *byte == one.model[page]),
                    "the file's page {page}"
                );
            }
            Op::ReserveFile { page, pages, .. } => {
                let (page, pages) = one.range(page, pages)?;
                one.file.reserve((page * PAGE) as u64, (pages * PAGE) as u64).expect("reserved");
            }
            Op::Punch { page, pages, .. } => {
                let (page, pages) = one.range(page, pages)?;
                one.file.punch_hole((page * PAGE) as u64, (pages * PAGE) as u64).expect("a hole");
                one.model[page..page + pages].fill(0);
            }
            Op::Resize { pages, .. } => {
                let pages = usize::from(pages) % (PAGES + 1);
                one.file.set_len((pages * PAGE) as u64).expect("a length");
                self.resized(usize::from(file), pages);
            }
            Op::Sync { .. } => one.file.sync().expect("synced"),
            _ => unreachable!("another's"),
        }
        Some(())
    }

    /// By another descriptor, of which the library knows nothing.
    pub fn do_by_stranger(&mut self, op: &Op) -> Option<()> {
        let (Op::Stranger { file, .. }
        | Op::StrangerResizes { file, .. }
        | Op::StrangerPunches { file, .. }) = *op
        else {
            unreachable!("another's")
        };
        if self.is_trusted(usize::from(file)) {
            return None;
        }
        let one = &mut self.files[usize::from(file)];
        match *op {
            Op::Stranger { page, value, .. } => {
                let page = one.page(page)?;
                one.stranger().write_all_at(&[value; PAGE], (page * PAGE) as u64).expect("written");
                one.model[page] = value;
            }
            Op::StrangerResizes { pages, .. } => {
                let pages = usize::from(pages) % (PAGES + 1);
                one.stranger().set_len((pages * PAGE) as u64).expect("a length");
                self.resized(usize::from(file), pages);
            }
            Op::StrangerPunches { page, pages, .. } => {
                let (page, pages) = one.range(page, pages)?;
                File::from(one.stranger())
                    .punch_hole((page * PAGE) as u64, (pages * PAGE) as u64)
                    .expect("a hole");
                one.model[page..page + pages].fill(0);
            }
            _ => unreachable!("another's"),
        }
        Some(())
    }
}
