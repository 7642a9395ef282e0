//! Sequences of the library's calls on two sparse files, beside arrays of what each of their pages must show.
#![no_main]

#[path = "library/files.rs"]
mod files;
#[path = "library/view.rs"]
mod view;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use udax::{Advice, File, MmapOptions, WithoutSpace};
use view::{Map, OneFile, View};

const PAGE: usize = 4096;
const UNIT: usize = 2 << 20;
const PAGES: usize = 4 * UNIT / PAGE;
const VIEWS: usize = 4;

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kind {
    Shared,
    Mut,
    Private,
}

/// How a view is made.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Options {
    kind: Kind,
    keeps_file: bool,
    asks: bool,
    populate: bool,
    exclusive: bool,
    /// Bytes between a page border and its beginning.
    skipped: u16,
}

#[derive(Arbitrary, Debug)]
enum Op {
    Map {
        view: u8,
        file: bool,
        first: u16,
        pages: u16,
        options: Options,
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
        file: bool,
        page: u16,
        pages: u8,
        value: u8,
    },
    /// From the mapping's own memory, where it has a slice.
    WriteFromView {
        view: u8,
        from: u16,
        file: bool,
        to: u16,
    },
    ReadIntoView {
        view: u8,
        file: bool,
        from: u16,
        into: u16,
    },
    Read {
        file: bool,
        page: u16,
    },
    /// By the mapping, whatever the file has by now.
    ReadAt {
        view: u8,
        page: u16,
        pages: u8,
    },
    WriteAt {
        view: u8,
        page: u16,
        pages: u8,
        value: u8,
    },
    Reserve {
        view: u8,
        page: u16,
        pages: u16,
    },
    ReserveFile {
        file: bool,
        page: u16,
        pages: u16,
    },
    Punch {
        file: bool,
        page: u16,
        pages: u16,
    },
    Resize {
        file: bool,
        pages: u16,
    },
    Flush(u8),
    FlushRange {
        view: u8,
        page: u16,
        pages: u16,
        waits: bool,
    },
    Advise {
        view: u8,
        page: u16,
        pages: u16,
        populate: bool,
    },
    Sync {
        file: bool,
    },
    Stranger {
        file: bool,
        page: u16,
        value: u8,
    },
    StrangerResizes {
        file: bool,
        pages: u16,
    },
    StrangerPunches {
        file: bool,
        page: u16,
        pages: u16,
    },
    /// A child reads what is mapped.
    Fork,
}

struct World {
    files: [OneFile; 2],
    views: [Option<View>; VIEWS],
}

/// There is space: nobody is asked.
static ASKED: AtomicBool = AtomicBool::new(false);

impl World {
    fn new(dir: &Path) -> Self {
        let files = ["one", "other"].map(|name| {
            let path = dir.join(name);
            let file = File::create(&path).expect("a file");
            file.set_len((PAGES * PAGE) as u64).expect("a length");
            OneFile { file, path, model: vec![0; PAGES] }
        });
        Self { files, views: [const { None }; VIEWS] }
    }

    fn view(&self, view: u8) -> Option<&View> {
        self.views[usize::from(view) % VIEWS].as_ref()
    }

    fn view_mut(&mut self, view: u8) -> Option<&mut View> {
        self.views[usize::from(view) % VIEWS].as_mut()
    }

    /// One of a view's pages, if the file has it: else loads are SIGBUS.
    fn shown(&self, view: u8, page: u16) -> Option<usize> {
        let view = self.view(view)?;
        view.page(page).filter(|&page| page < self.files[view.file].model.len())
    }

    fn check(&self, view: &View, page: usize) {
        let mut bytes = [0; PAGE];
        view.load(page, &mut bytes);
        let value = view.value(&self.files, page);
        assert!(bytes.iter().all(|byte| *byte == value), "page {page} is not all {value}");
    }

    /// Something was stored by a view.
    fn stored(&mut self, view: u8, page: usize, value: u8) {
        let Some(view) = self.views[usize::from(view) % VIEWS].as_mut() else { return };
        if view.is_private() {
            view.copies.insert(page, value);
        } else {
            self.files[view.file].model[page] = value;
        }
    }

    /// What lies behind a new end is gone, from private mappings as well.
    fn resized(&mut self, file: usize, pages: usize) {
        self.files[file].model.resize(pages, 0);
        for view in self.views.iter_mut().flatten().filter(|view| view.file == file) {
            view.copies.retain(|&page, _| page < pages);
        }
    }

    fn map(&self, file: usize, first: u16, pages: u16, mut options: Options) -> Option<View> {
        let one = &self.files[file];
        let (first, pages) = one.range(first, pages)?;
        options.skipped %= PAGE as u16;
        let skipped = usize::from(options.skipped);
        let mut how = MmapOptions::new();
        how.offset((first * PAGE + skipped) as u64).len(pages * PAGE - skipped);
        if options.keeps_file {
            how.keep_file();
        }
        if options.asks {
            how.on_no_space(|_| {
                ASKED.store(true, Ordering::Relaxed);
                WithoutSpace::Signal
            });
        }
        if options.populate {
            how.populate();
        }
        if options.exclusive {
            how.assume_exclusive();
        }
        // SAFETY: this process changes and cuts the file, but never while a slice of it is in use.
        let map = unsafe {
            match options.kind {
                Kind::Shared => how.map_shared(&one.file).map(Map::Shared),
                Kind::Mut => how.map_mut(&one.file).map(Map::Slice),
                Kind::Private => how.map_copy(&one.file).map(Map::Slice),
            }
        };
        let map = map.expect("mapped");
        Some(View { map, file, options, first, pages, copies: BTreeMap::new() })
    }

    /// Those who trust that nobody else writes a file must not see strangers do it.
    fn is_trusted(&self, file: usize) -> bool {
        self.views.iter().flatten().any(|view| view.file == file && view.options.exclusive)
    }

    fn do_one(&mut self, op: &Op) -> Option<()> {
        match *op {
            Op::Map { .. } | Op::Unmap(_) | Op::Fork => self.do_to_views(op),
            Op::Store { .. }
            | Op::Load { .. }
            | Op::WriteFromView { .. }
            | Op::ReadIntoView { .. } => self.do_by_memory(op),
            Op::ReadAt { .. }
            | Op::WriteAt { .. }
            | Op::Reserve { .. }
            | Op::Flush(_)
            | Op::FlushRange { .. }
            | Op::Advise { .. } => self.do_by_view(op),
            Op::Write { .. }
            | Op::Read { .. }
            | Op::ReserveFile { .. }
            | Op::Punch { .. }
            | Op::Resize { .. }
            | Op::Sync { .. } => self.do_by_file(op),
            Op::Stranger { .. } | Op::StrangerResizes { .. } | Op::StrangerPunches { .. } => {
                self.do_by_stranger(op)
            }
        }
    }

    fn do_to_views(&mut self, op: &Op) -> Option<()> {
        match *op {
            Op::Map { view, file, first, pages, options } => {
                let made = self.map(usize::from(file), first, pages, options)?;
                self.views[usize::from(view) % VIEWS] = Some(made);
            }
            Op::Unmap(view) => self.views[usize::from(view) % VIEWS] = None,
            Op::Fork => self.fork(),
            _ => unreachable!("another's"),
        }
        Some(())
    }

    fn do_by_memory(&mut self, op: &Op) -> Option<()> {
        match *op {
            Op::Store { view, page, value } => {
                let page = self.shown(view, page)?;
                self.view_mut(view)?.store(page, &[value; PAGE]);
                self.stored(view, page, value);
            }
            Op::Load { view, page } => {
                let page = self.shown(view, page)?;
                self.check(self.view(view)?, page);
            }
            Op::WriteFromView { view, from, file, to } => {
                let from = self.shown(view, from)?;
                let to = self.files[usize::from(file)].page(to)?;
                let (shown, target) = (self.view(view)?, &self.files[usize::from(file)].file);
                let value = shown.value(&self.files, from);
                let mut bytes = [0; PAGE];
                let memory = match &shown.map {
                    Map::Slice(map) => &map[shown.at(from)..][..PAGE],
                    Map::Shared(_) => {
                        shown.load(from, &mut bytes);
                        &bytes
                    }
                };
                let written = target.write_at(memory, (to * PAGE) as u64);
                assert_eq!(written.expect("there is space"), PAGE);
                self.files[usize::from(file)].model[to] = value;
            }
            Op::ReadIntoView { view, file, from, into } => {
                let from = self.files[usize::from(file)].page(from)?;
                let into = self.shown(view, into)?;
                let value = self.files[usize::from(file)].model[from];
                let source = &self.files[usize::from(file)].file;
                let shown = self.views[usize::from(view) % VIEWS].as_mut()?;
                let (mut bytes, at) = ([0; PAGE], shown.at(into));
                let memory = match &mut shown.map {
                    Map::Slice(map) => &mut map[at..][..PAGE],
                    Map::Shared(_) => &mut bytes,
                };
                let read = source.read_at(memory, (from * PAGE) as u64);
                assert_eq!(read.expect("it can be read"), PAGE);
                if let Map::Shared(map) = &shown.map {
                    map.store(at, &bytes);
                }
                self.stored(view, into, value);
            }
            _ => unreachable!("another's"),
        }
        Some(())
    }

    fn do_by_view(&mut self, op: &Op) -> Option<()> {
        match *op {
            Op::ReadAt { view, page, pages } => self.read_at(self.view(view)?, page, pages)?,
            Op::WriteAt { view, page, pages, value } => self.write_at(view, page, pages, value)?,
            Op::Reserve { view, page, pages } => {
                let shown = self.view(view)?;
                let page = shown.page(page)?;
                let pages = 1 + usize::from(pages) % (shown.first + shown.pages - page);
                let (at, length) = (shown.at(page), pages * PAGE);
                let reserved = match &shown.map {
                    Map::Shared(map) => map.reserve(at, length),
                    Map::Slice(map) => map.reserve(at, length),
                };
                assert_eq!(reserved.is_ok(), shown.can_read_at(), "{reserved:?}");
            }
            Op::Flush(view) => match &self.view(view)?.map {
                Map::Shared(map) => map.flush().expect("flushed"),
                Map::Slice(map) => map.flush().expect("flushed"),
            },
            Op::FlushRange { view, page, pages, waits } => {
                let shown = self.view(view)?;
                let Map::Slice(map) = &shown.map else { return None };
                let at = shown.at(shown.page(page)?);
                let length = (usize::from(pages) * PAGE).min(map.len() - at);
                let done = if waits {
                    map.flush_range(at, length)
                } else {
                    map.flush_async_range(at, length)
                };
                done.expect("flushed");
                map.flush_range(at, usize::MAX - usize::from(pages)).expect_err("outside");
                map.flush_range(map.len() + 1, 0).expect_err("outside");
            }
            Op::Advise { view, page, pages, populate } => {
                let shown = self.view(view)?;
                let Map::Slice(map) = &shown.map else { return None };
                let page = shown.page(page)?;
                let end = self.files[shown.file].model.len().min(shown.first + shown.pages);
                let length =
                    usize::from(pages) % end.checked_sub(page).filter(|left| *left > 0)? * PAGE;
                let advice = if populate { Advice::PopulateRead } else { Advice::WillNeed };
                map.advise_range(advice, shown.at(page), length).expect("advised");
            }
            _ => unreachable!("another's"),
        }
        Some(())
    }

    fn read_at(&self, view: &View, page: u16, pages: u8) -> Option<()> {
        let page = view.page(page)?;
        let mut bytes = vec![0xee; usize::from(pages) * PAGE];
        let read = match &view.map {
            Map::Shared(map) => map.read_at(view.at(page), &mut bytes),
            Map::Slice(map) => map.read_at(view.at(page), &mut bytes),
        };
        if view.is_private() || !view.can_read_at() {
            assert!(read.is_err() || (pages == 0 && !view.is_private()), "{read:?}");
            return None;
        }
        let model = &self.files[view.file].model;
        let end = model.len().min(view.first + view.pages).min(page + usize::from(pages));
        assert_eq!(read.expect("read"), end.saturating_sub(page) * PAGE);
        for at in page..end {
            let bytes = &bytes[(at - page) * PAGE..][..PAGE];
            assert!(bytes.iter().all(|byte| *byte == model[at]), "page {at} by the mapping");
        }
        Some(())
    }

    fn write_at(&mut self, view: u8, page: u16, pages: u8, value: u8) -> Option<()> {
        let shown = self.views[usize::from(view) % VIEWS].as_mut()?;
        let page = shown.page(page)?;
        let bytes = vec![value; usize::from(pages) * PAGE];
        let at = shown.at(page);
        let written = match &mut shown.map {
            Map::Shared(map) => map.write_at(at, &bytes),
            Map::Slice(map) => map.write_at(at, &bytes),
        };
        if shown.is_private() || !shown.can_read_at() {
            assert!(written.is_err() || pages == 0, "{written:?}");
            return None;
        }
        let model = &mut self.files[shown.file].model;
        let end = model.len().min(shown.first + shown.pages).min(page + usize::from(pages));
        assert_eq!(written.expect("there is space"), end.saturating_sub(page) * PAGE);
        if page < end {
            model[page..end].fill(value);
        }
        Some(())
    }

    /// Whether each page that is shown is what it must be.
    fn first_wrong(&self) -> Option<usize> {
        self.views.iter().flatten().find_map(|view| {
            let end = (view.first + view.pages).min(self.files[view.file].model.len());
            let start = view.first + usize::from(view.options.skipped != 0);
            let mut bytes = [0; PAGE];
            (start..end).filter(|page| page % 16 == 0 || view.value(&self.files, *page) != 0).find(
                |&page| {
                    view.load(page, &mut bytes);
                    bytes[7] != view.value(&self.files, page)
                },
            )
        })
    }

    fn fork(&self) {
        // SAFETY: the child loads, and ends without coming back.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let wrong = self.first_wrong().is_some();
            // SAFETY: nothing is done on the way.
            unsafe { libc::_exit(i32::from(wrong)) };
        }
        assert!(child > 0);
        let mut status = 0;
        // SAFETY: a child of this process, and a number that is filled in.
        let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!((ended, status), (child, 0), "the child found what it should");
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
    let mut world = World::new(dir.path());
    check_that_files_are_served(&world.files[0].file);
    for op in ops.iter().take(64) {
        world.do_one(op);
    }
    assert_eq!(world.first_wrong(), None, "a page");
    for one in &world.files {
        for (page, &value) in
            one.model.iter().enumerate().filter(|(page, value)| page % 16 == 0 || **value != 0)
        {
            let mut bytes = [!value; PAGE];
            one.file.read_at(&mut bytes, (page * PAGE) as u64).expect("it can be read");
            assert!(bytes.iter().all(|byte| *byte == value), "the file's page {page}");
        }
    }
    assert!(!ASKED.load(Ordering::Relaxed), "there is space");
});
