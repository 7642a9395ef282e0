//! Sequences of the library's calls on one sparse file, beside an array of what each of its pages must show.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use udax::{File, MmapOptions, SharedMap};

const PAGE: usize = 4096;
const UNIT: usize = 2 << 20;
const PAGES: usize = 4 * UNIT / PAGE;
const VIEWS: usize = 3;

#[derive(Arbitrary, Debug)]
enum Op {
    Map {
        view: u8,
        first: u16,
        pages: u16,
    },
    Unmap(u8),
    Store {
        view: u8,
        page: u16,
        value: u8,
    },
    Load {
        view: u8,
        page: u16,
    },
    Write {
        page: u16,
        pages: u8,
        value: u8,
    },
    WriteFromView {
        view: u8,
        from: u16,
        to: u16,
    },
    ReadIntoView {
        view: u8,
        from: u16,
        into: u16,
    },
    Read {
        page: u16,
    },
    Punch {
        page: u16,
        pages: u16,
    },
    /// With nothing mapped: what is mapped past the end is SIGBUS.
    Resize {
        pages: u16,
    },
    Flush(u8),
    Stranger {
        page: u16,
        value: u8,
    },
}

struct View {
    map: SharedMap,
    first: usize,
    pages: usize,
}

struct World {
    file: File,
    path: std::path::PathBuf,
    views: [Option<View>; VIEWS],
    /// The byte that fills each page.
    model: Vec<u8>,
}

impl World {
    fn view(&self, view: u8) -> Option<&View> {
        self.views[usize::from(view) % VIEWS].as_ref()
    }

    fn check(&self, view: &View, page: usize) {
        let mut bytes = [0; PAGE];
        view.map.load((page - view.first) * PAGE, &mut bytes);
        let value = self.model[page];
        assert!(bytes.iter().all(|byte| *byte == value), "page {page} is not all {value}");
    }

    /// One of the pages that a view shows.
    fn page_in(view: &View, page: u16) -> usize {
        view.first + usize::from(page) % view.pages
    }

    fn any_page(&self, page: u16) -> Option<usize> {
        usize::from(page).checked_rem(self.model.len())
    }

    fn write(&mut self, page: usize, pages: usize, value: u8) {
        let pages = pages.clamp(1, self.model.len() - page);
        let bytes = vec![value; pages * PAGE];
        let written = self.file.write_at(&bytes, (page * PAGE) as u64);
        assert_eq!(written.expect("there is space"), bytes.len());
        self.model[page..page + pages].fill(value);
    }

    fn do_one(&mut self, op: &Op) -> Option<()> {
        match *op {
            Op::Map { view, first, pages } => {
                let first = self.any_page(first)?;
                let pages = 1 + usize::from(pages) % (self.model.len() - first);
                let (offset, length) = ((first * PAGE) as u64, pages * PAGE);
                let map = MmapOptions::new().offset(offset).len(length).map_shared(&self.file);
                let map = map.expect("mapped");
                self.views[usize::from(view) % VIEWS] = Some(View { map, first, pages });
            }
            Op::Unmap(view) => self.views[usize::from(view) % VIEWS] = None,
            Op::Store { view, page, value } => {
                let shown = self.view(view)?;
                let page = Self::page_in(shown, page);
                shown.map.store((page - shown.first) * PAGE, &[value; PAGE]);
                self.model[page] = value;
            }
            Op::Load { view, page } => {
                let shown = self.view(view)?;
                self.check(shown, Self::page_in(shown, page));
            }
            Op::Write { page, pages, value } => {
                let page = self.any_page(page)?;
                self.write(page, usize::from(pages), value);
            }
            Op::WriteFromView { view, from, to } => {
                let to = self.any_page(to)?;
                let shown = self.view(view)?;
                let from = Self::page_in(shown, from);
                let mut bytes = vec![0; PAGE];
                shown.map.load((from - shown.first) * PAGE, &mut bytes);
                let written = self.file.write_at(&bytes, (to * PAGE) as u64);
                assert_eq!(written.expect("there is space"), PAGE);
                self.model[to] = self.model[from];
            }
            Op::ReadIntoView { view, from, into } => {
                let from = self.any_page(from)?;
                let mut bytes = vec![0; PAGE];
                let read = self.file.read_at(&mut bytes, (from * PAGE) as u64);
                assert_eq!(read.expect("it can be read"), PAGE);
                let shown = self.view(view)?;
                let into = Self::page_in(shown, into);
                shown.map.store((into - shown.first) * PAGE, &bytes);
                self.model[into] = self.model[from];
            }
            Op::Read { page } => {
                let page = self.any_page(page)?;
                let mut bytes = vec![1; PAGE];
                let read = self.file.read_at(&mut bytes, (page * PAGE) as u64);
                assert_eq!(read.expect("it can be read"), PAGE);
                assert!(
                    bytes.iter().all(|byte| *byte == self.model[page]),
                    "the file's page {page}"
                );
            }
            Op::Punch { page, pages } => {
                let page = self.any_page(page)?;
                let pages = 1 + usize::from(pages) % (self.model.len() - page);
                let punched = self.file.punch_hole((page * PAGE) as u64, (pages * PAGE) as u64);
                punched.expect("a hole");
                self.model[page..page + pages].fill(0);
            }
            Op::Resize { pages } => {
                self.views = [const { None }; VIEWS];
                let pages = usize::from(pages) % (PAGES + 1);
                self.file.set_len((pages * PAGE) as u64).expect("a length");
                self.model.resize(pages, 0);
            }
            Op::Flush(view) => self.view(view)?.map.flush().expect("flushed"),
            Op::Stranger { page, value } => {
                use std::os::unix::fs::FileExt as _;
                let page = self.any_page(page)?;
                let other =
                    std::fs::OpenOptions::new().write(true).open(&self.path).expect("opened");
                other.write_all_at(&[value; PAGE], (page * PAGE) as u64).expect("written");
                self.model[page] = value;
            }
        }
        Some(())
    }
}

/// All would be well, too, if nothing were served.
fn check_that_files_are_served(file: &File) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let map = MmapOptions::new().map_shared(file).expect("mapped");
        assert_eq!(map.report().plain_because, None, "faults have to be served here");
    });
}

fuzz_target!(|ops: Vec<Op>| {
    let dir = tempfile::tempdir_in(Path::new("/dev/shm")).expect("a directory in memory");
    let path = dir.path().join("file");
    let file = File::create(&path).expect("a file");
    file.set_len((PAGES * PAGE) as u64).expect("a length");
    check_that_files_are_served(&file);
    let mut world = World { file, path, views: [const { None }; VIEWS], model: vec![0; PAGES] };
    for op in ops.iter().take(64) {
        world.do_one(op);
    }
    for page in 0..world.model.len() {
        for view in world.views.iter().flatten() {
            if (view.first..view.first + view.pages).contains(&page) {
                world.check(view, page);
            }
        }
    }
});
